"""Stand-ins for what gives no gradient, fitted to what goes in and what comes out: tables of means and affine maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import ModelError

BINS, NUMBERS = 128, 2**16
"""Places of a table of means, and the pairs of numbers that it is made from, at most."""
CHANNELS = 64
"""Of pictures that get a table per channel, at most."""


@dataclass(frozen=True, eq=False)
class Joint:
    """One number as a function of another: `table`, the means of what came out between `low` and `high`. explained: the
    share of the variance that this accounts for.
    """

    low: float
    high: float
    spread: float
    table: Tensor
    explained: float

    @classmethod
    def fitted(cls, before: Tensor, after: Tensor) -> Joint:
        """To equally many numbers, the first with the first."""
        u, v = (part.detach().flatten().double() for part in (before, after))
        every = -(-len(u) // NUMBERS)
        u, v = u[::every], v[::every]
        low, high = float(u.min()), float(u.max())
        place = ((u - low) / max(high - low, 1e-12) * BINS).long().clamp(0, BINS - 1)
        count = torch.zeros(BINS, dtype=u.dtype, device=u.device).index_add_(0, place, torch.ones_like(u))
        total = torch.zeros_like(count).index_add_(0, place, v)
        table = torch.tensor(list(_filled((total / count).tolist())), dtype=u.dtype, device=u.device)
        left, whole = float((table[place] - v).square().mean()), float(v.var())
        return cls(low, high, float(u.std()), table, 1 - left / whole if whole > 0 else 1.0)

    def slope(self, at: Tensor, width: float) -> Tensor:
        """Central differences over `width` standard deviations of what went in, same shape."""
        step = max(width * self.spread, 1e-6)
        return (self._value(at + step) - self._value(at - step)) / (2 * step)

    def _value(self, at: Tensor) -> Tensor:
        where = ((at - self.low) / max(self.high - self.low, 1e-12) * BINS - 0.5).clamp(0, BINS - 1)
        left = where.floor().long()
        table = self.table.to(at)
        return torch.lerp(table[left], table[(left + 1).clamp_max(BINS - 1)], where - left)


@dataclass(frozen=True, eq=False)
class Spread:
    """Every channel of what came out as a function of one channel of what went in, pixel by pixel, such as thresholds
    or levels; `sources`: which one. explained: the share of all variance.
    """

    joints: tuple[Joint, ...]
    sources: tuple[int, ...]
    explained: float

    @classmethod
    def fitted(cls, before: Tensor, after: Tensor) -> Spread | None:
        """To pictures (N, C, H, W) of one size, at most `CHANNELS` of them; None for others."""
        alike = before.dim() == after.dim() == 4 and len(before) == len(after) and before.shape[2:] == after.shape[2:]
        if not alike or max(before.shape[1], after.shape[1]) > CHANNELS:
            return None
        best, sources, left = [], [], 0.0
        for k in range(after.shape[1]):
            tried = [Joint.fitted(before[:, c], after[:, k]) for c in range(before.shape[1])]
            source = max(range(len(tried)), key=lambda c: tried[c].explained)
            best.append(tried[source])
            sources.append(source)
            left += (1 - tried[source].explained) * float(after[:, k].double().var())
        return cls(tuple(best), tuple(sources), 1 - left / max(after.shape[1] * float(after.double().var()), 1e-12))

    def soft(self, before: Tensor, width: float) -> Tensor:
        """Something with the smoothed slopes as its gradient."""
        x = before.detach()
        parts = [j.slope(x[:, c], width) * before[:, c] for j, c in zip(self.joints, self.sources, strict=True)]
        return torch.stack(parts, 1)


def spread_fit(source: Tensor, wanted: Tensor) -> Spread:
    """Every channel of `wanted` as a function of one of `source`. Raises `ModelError` for what are no such pictures."""
    found = Spread.fitted(source, wanted)
    if found is None:
        raise ModelError("only pictures of one size have a function per channel")
    return found


def affine_fit(source: Tensor, wanted: Tensor) -> Tensor:
    """Least-squares weights (C' , C + 1) of a map from the channels of `source` (N, C, H, W), resized, to those of
    `wanted`, pixel by pixel. Raises `ModelError` where either is no picture.
    """
    if source.dim() != 4 or wanted.dim() != 4:
        raise ModelError("only pictures (N, C, H, W) have an affine map per pixel")
    x = _resized(source, wanted).permute(0, 2, 3, 1).flatten(0, 2).double()
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    y = wanted.permute(0, 2, 3, 1).flatten(0, 2).double()
    square = x.T @ x + 1e-6 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights: Tensor = torch.linalg.solve(square, x.T @ y).T
    return weights


def affine(source: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    """The fitted map of `source`, shaped like `like`."""
    mapped = torch.einsum("oc,nchw->nohw", weights[:, :-1].to(source), _resized(source, like))
    return mapped + weights[:, -1].to(source).view(1, -1, 1, 1)


def explained(source: Tensor, wanted: Tensor) -> float:
    """Share of the variance of `wanted` that the affine map of `source` explains; 0 where there is none."""
    if source.dim() != 4 or wanted.dim() != 4 or len(source) != len(wanted):
        return 0.0
    left = (affine(source, affine_fit(source, wanted), wanted) - wanted).double().square().mean()
    return 1 - float(left / wanted.double().var().clamp_min(1e-12))


def _resized(source: Tensor, like: Tensor) -> Tensor:
    if source.shape[2:] == like.shape[2:]:
        return source
    return functional.interpolate(source, size=like.shape[2:], mode="bilinear", align_corners=False)


def _filled(means: list[float]) -> Iterator[float]:
    """Empty places (NaN) between their neighbours; the first and the last are never empty."""
    known = [i for i, value in enumerate(means) if math.isfinite(value)]
    for i in range(len(means)):
        left = max((k for k in known if k <= i), default=known[0])
        right = min((k for k in known if k >= i), default=known[-1])
        share = 0.0 if left == right else (i - left) / (right - left)
        yield means[left] + share * (means[right] - means[left])
