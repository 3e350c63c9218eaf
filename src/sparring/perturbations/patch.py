"""A patch: the attacker may paint one spot, of a given shape and size, anywhere on the picture, in any colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparring.budget import number_text, parse_number
from sparring.errors import InputError, unknown
from sparring.perturbations.base import check_pictures, said, whole_box
from sparring.perturbations.placement import SHAPES
from sparring.threat import Region, checked_bounds, in_box


@dataclass(frozen=True, init=False, repr=False)
class Patch:
    """All pictures that differ from the original in one spot only, which may lie anywhere, also over the edge.

    area: the largest share of the pixels that the spot covers, 0.05 or "1/20". shape: "square" or "circle". The colours
    are free within `bounds`.

    >>> Patch(0.05).spot((8, 8)).shape
    torch.Size([1, 1])
    """

    area: float
    shape: str = "square"
    bounds: tuple[float, float] = (0.0, 1.0)

    def __init__(self, area: float | str, shape: str = "square", bounds: Sequence[float] = (0.0, 1.0)) -> None:
        share = parse_number(area, "area")
        if not 0 <= share <= 1:
            raise InputError(f"area is a share of the picture and must lie in 0..1, got {area!r}")
        if shape not in SHAPES:
            raise InputError(unknown("shape", shape, list(SHAPES)))
        for name, value in (("area", share), ("shape", shape), ("bounds", checked_bounds(bounds))):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return said(self)

    @property
    def norm(self) -> str:
        """The name of this kind of threat."""
        return "patch"

    @property
    def eps(self) -> float:
        """The area."""
        return self.area

    @property
    def eps_text(self) -> str:
        """The area as people write it."""
        return number_text(self.area)

    def spot(self, size: Sequence[int]) -> Tensor:
        """The pixels of the spot on a picture of `size` (H, W), bool (h, w): the largest spot that covers no more than
        the area; (0, 0) where not even one pixel does.
        """
        allowed = math.floor(self.area * size[0] * size[1] + 1e-9)
        if self.shape == "square":
            side = min(math.isqrt(allowed), *size)
            return torch.ones(side, side, dtype=torch.bool)
        reach = min(math.isqrt(allowed), *size) // 2 + 1
        offsets = torch.arange(-reach, reach + 1)
        squares = offsets[:, None] ** 2 + offsets**2
        counts = (squares.flatten()[:, None] <= torch.arange(reach**2 + 1)).sum(0)
        fitting = (counts <= allowed).nonzero().flatten()
        if len(fitting) == 0:
            return torch.zeros(0, 0, dtype=torch.bool)
        disc = squares <= int(fitting[-1])
        kept = disc.any(0)
        return disc[kept][:, kept]

    def around(self, originals: Tensor) -> Region:
        """The whole box: where the spot lies is for the attack to choose."""
        return whole_box(originals, self.bounds)

    def contains(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """Bool (N,): inside the box, and some place of the spot covers every changed pixel."""
        changed = changed_pixels(originals, adversarials)
        spot = self.spot(changed.shape[1:])
        covered = [_covers(spot, pixels) for pixels in changed.cpu()]
        return in_box(adversarials, self.bounds) & torch.tensor(covered, dtype=torch.bool, device=changed.device)

    def distance(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """The share of the pixels that changed, float64 (N,)."""
        return changed_pixels(originals, adversarials).flatten(1).double().mean(1)

    def key(self) -> dict[str, Any]:
        """Kind, area, shape and box."""
        return {"norm": self.norm, "eps": self.area, "shape": self.shape, "bounds": self.bounds}


def changed_pixels(originals: Tensor, adversarials: Tensor) -> Tensor:
    """Bool (N, H, W): some channel differs."""
    check_pictures(originals)
    return (originals != adversarials).any(1)


def _covers(spot: Tensor, changed: Tensor) -> bool:
    """Whether some place of `spot` (h, w) covers all `changed` (H, W) pixels: slides their bounding box over it."""
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    if len(rows) == 0:
        return True
    box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if box.shape[0] > spot.shape[0] or box.shape[1] > spot.shape[1]:
        return False
    hits = functional.conv2d(spot[None, None].double(), box[None, None].double())
    return bool((hits == box.sum()).any())
