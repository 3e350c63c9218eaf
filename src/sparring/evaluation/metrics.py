"""How visible a perturbation is, and what a success cost. Pure functions on tensors and records."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import InputError
from sparring.evaluation.records import Record


def psnr(originals: Tensor, adversarials: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB per image, float64 (N,); infinite where nothing changed."""
    error = (adversarials.double() - originals.double()).flatten(1).square().mean(1)
    return 10 * torch.log10(data_range**2 / error)


def ssim(originals: Tensor, adversarials: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity per image (Wang et al. 2004), float64 (N,), 1 = identical.

    Uniform 7 x 7 window (the largest odd one that fits, on smaller images), sample covariance, mean over all
    windows and channels. Needs images (N, C, H, W) of at least 3 x 3.
    """
    side = min(7, *originals.shape[2:])
    side -= 1 - side % 2
    if originals.dim() != 4 or side < 3:
        raise InputError(f"ssim needs images (N, C, H, W) of at least 3 x 3, got {tuple(originals.shape)}")
    x, y = originals.double(), adversarials.double()

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, side, stride=1)

    unbias = side**2 / (side**2 - 1)
    mx, my = mean(x), mean(y)
    vx, vy = (mean(x * x) - mx * mx) * unbias, (mean(y * y) - my * my) * unbias
    cov = (mean(x * y) - mx * my) * unbias
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity: Tensor = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return similarity.flatten(1).mean(1)


def success_against_cost(records: Sequence[Record]) -> list[tuple[int, float]]:
    """Pairs (passes, share): of the images attacked, the share that had fallen after that many forward and
    backward passes each. Starts at (0, 0); one pair per distinct cost of a broken image.
    """
    attacked = [r for r in records if r.attacked]
    costs = sorted(r.forwards + r.backwards for r in attacked if r.broken_by is not None)
    curve = {0: 0.0}
    for fallen, cost in enumerate(costs, start=1):
        curve[cost] = fallen / len(attacked)
    return list(curve.items())
