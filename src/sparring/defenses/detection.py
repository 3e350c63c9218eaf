"""How well scores tell attacked images from clean ones: rates at a threshold, and the area under the curve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.estimate import Estimate, proportion

RATES = (0.01, 0.05)
"""False-positive rates at which the true-positive rate is given."""


@dataclass(frozen=True)
class Detection:
    """One detector against one set of attacked images. `flagged`: share it flags at its own threshold; `tpr`: share
    above the clean images' quantile, by false-positive rate; `auroc`: with DeLong's interval.
    """

    detector: str
    against: str
    flagged: Estimate
    tpr: dict[float, Estimate]
    auroc: Estimate


def detection(name: str, against: str, threshold: float, clean: Tensor, attacked: Tensor) -> Detection:
    """From the scores of clean images (N,) and of attacked ones (M,)."""
    m = len(attacked)
    tpr = {}
    for rate in RATES:
        rank = max(1, math.ceil((len(clean) + 1) * (1 - rate) - 1e-9))
        line = math.inf if rank > len(clean) else float(clean.double().sort().values[rank - 1])
        tpr[rate] = proportion(int((attacked.double() > line).sum()), m)
    flagged = proportion(int((attacked.double() > threshold).sum()), m)
    return Detection(name, against, flagged, tpr, auroc(clean, attacked))


def auroc(clean: Tensor, attacked: Tensor) -> Estimate:
    """The chance that an attacked image scores higher than a clean one, ties counted half, with the interval of DeLong,
    DeLong & Clarke-Pearson (1988). n: attacked images.
    """
    n, m = len(clean), len(attacked)
    if not n or not m:
        return Estimate(math.nan, 0.0, 1.0, m)
    higher = (attacked.double()[:, None] > clean.double()).double()
    wins = higher + 0.5 * (attacked.double()[:, None] == clean.double()).double()
    value = float(wins.mean())
    variance = 0.0
    for share, count in ((wins.mean(1), m), (wins.mean(0), n)):
        variance += float(torch.var(share)) / count if count > 1 else 0.25
    reach = 1.959964 * math.sqrt(variance)
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), m)
