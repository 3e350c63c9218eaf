"""The region around a batch of images, and the least value of a linear function on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.norms import per_image
from sparring.threat import ThreatModel

HALVINGS = 12
SLACK = {torch.float32: 1e-5, torch.float64: 1e-12}
"""What a bound loses for rounding, as a share of the sum of the absolute values that it was added up from."""


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in full on a GPU, whose short form (TF32) errs by more than SLACK; afterwards as before."""
    products = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in products]
    try:
        for kind in products:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(products, before, strict=True):
            kind.fp32_precision = precision


@dataclass(frozen=True, eq=False)
class Domain:
    """Ball ∩ box: `lower` and `upper` bound each pixel; for l2 the distance from `images` is at most `eps`, too.

    The budget is what the driver of the attacks accepts: eps with its tolerance.
    """

    images: Tensor
    lower: Tensor
    upper: Tensor
    norm: str
    eps: Tensor

    @classmethod
    def build(cls, threat: ThreatModel, images: Tensor, eps: Tensor | None = None) -> Domain:
        """The region of `threat` (linf or l2, box, mask), with a budget per image `eps` (N,) where given."""
        budget = images.new_full((len(images),), threat.eps) if eps is None else eps.to(images)
        budget = budget + threat.tolerance(images)
        low, high = threat.bounds
        each = per_image(budget, images)
        reach = each if threat.norm == "linf" else torch.minimum(each, each.new_full((), high - low))
        lower, upper = (images - reach).clamp_min(low), (images + reach).clamp_max(high)
        if threat.mask is not None:
            mask = threat.mask_for(images)
            lower, upper = lower.where(mask, images), upper.where(mask, images)
        return cls(images, lower, upper, threat.norm, budget)

    def select(self, rows: Tensor) -> Domain:
        """The regions of some of the images."""
        return Domain(self.images[rows], self.lower[rows], self.upper[rows], self.norm, self.eps[rows])

    def least(self, a: Tensor) -> Tensor:
        """A lower bound of Σ A·x over the region, (N, R), for A of shape (N or 1, R, C, H, W)."""
        rows = a.flatten(2)
        mid, rad = ((self.upper + self.lower) / 2).flatten(1), ((self.upper - self.lower) / 2).flatten(1)
        if len(rows) == 1:
            size = rows[0].abs()
            found: Tensor = mid @ rows[0].T - rad @ size.T
        else:
            size = rows.abs()
            found = torch.einsum("nrd,nd->nr", rows, mid) - torch.einsum("nrd,nd->nr", size, rad)
        return torch.maximum(found, self._in_ball(rows)) if self.norm == "l2" else found

    def magnitude(self, a: Tensor) -> Tensor:
        """Σ |A|·max|x|, (N, R): what rounding errors are measured by."""
        most = torch.maximum(self.lower.abs(), self.upper.abs()).flatten(1)
        found: Tensor = torch.einsum("nrd,nd->nr", a.flatten(2).abs().expand(len(most), -1, -1), most)
        return found

    def _in_ball(self, rows: Tensor) -> Tensor:
        """By duality: for every λ > 0, max a·δ over ball and box is at most Σ maxᵢ(aᵢδᵢ - λδᵢ²/2) + λε²/2. Without the
        box the best λ gives ε‖a‖; with it, a few halvings look for a better one, and each is sound.
        """
        x = self.images.flatten(1).unsqueeze(1)
        value, norm = (rows * x).sum(2), rows.norm(dim=2)
        eps = self.eps.unsqueeze(1)
        best: Tensor = value - eps * norm
        if rows.shape[1] * rows.shape[2] * len(x) > 2**24:  # many rows: the ball alone
            return best
        low_end, high_end = (self.lower.flatten(1).unsqueeze(1) - x), (self.upper.flatten(1).unsqueeze(1) - x)
        small, large = torch.zeros_like(norm), norm / eps.clamp_min(1e-12)
        for _ in range(HALVINGS):
            lam = ((small + large) / 2).clamp_min(1e-12)
            delta = torch.maximum(low_end, torch.minimum(high_end, -rows / lam.unsqueeze(2)))
            dual = (rows * delta + lam.unsqueeze(2) * delta.square() / 2).sum(2) - lam * eps.square() / 2
            best = torch.maximum(best, value + dual)
            far = delta.norm(dim=2) > eps
            small, large = torch.where(far, lam, small), torch.where(far, large, lam)
        return best


def slack(dtype: torch.dtype) -> float:
    """The share for this kind of numbers."""
    return SLACK.get(dtype, math.sqrt(torch.finfo(dtype).eps))
