"""Where to draw the line so that a chosen share of clean images is flagged, with a guarantee for finite samples."""

from __future__ import annotations

import math

from torch import Tensor

from sparring.errors import InputError


def conformal_threshold(scores: Tensor, fpr: float) -> float:
    """The ⌈(n+1)(1-fpr)⌉-th smallest of n clean scores (Vovk et al. 2005; Angelopoulos & Bates 2023, arXiv:2107.07511).

    A further score, exchangeable with these, is strictly above it with probability at most `fpr`, whatever its
    distribution. Raises `InputError` for NaN, and where n is too small for the guarantee.

    >>> import torch
    >>> conformal_threshold(torch.arange(1.0, 20.0), 0.05)
    19.0
    """
    if isinstance(fpr, bool) or not isinstance(fpr, (int, float)) or not 0 < fpr < 1:
        raise InputError(f"fpr must lie strictly between 0 and 1, got {fpr!r}")
    n = len(scores)
    rank = math.ceil((n + 1) * (1 - fpr) - 1e-9)
    if rank > n:
        raise InputError(
            f"{n} images are too few to set a threshold at a false-positive rate of {fpr:g}: calibrate on at least "
            f"{math.ceil(1 / fpr - 1 - 1e-9)}"
        )
    if bool(scores.isnan().any()):
        raise InputError(f"the scores of {int(scores.isnan().sum())} clean images are NaN: the model answers NaN there")
    return float(scores.double().sort().values[rank - 1])
