"""Turned and shifted pictures (Engstrom et al. 2019, arXiv:1712.02779)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparring.budget import parse_number
from sparring.errors import InputError
from sparring.perturbations.base import check_pictures
from sparring.perturbations.finite import FiniteThreat
from sparring.threat import checked_bounds

PROBES = 64
"""Pixels that the check looks at first."""
PADDINGS = ("zeros", "border", "reflection")


@dataclass(frozen=True, kw_only=True, repr=False)
class Spatial(FiniteThreat):
    """All pictures turned about their middle by up to `rotation` degrees and shifted by up to `translation` (a share of
    the height and of the width), on a grid of `turns` angles and `shifts` distances in either direction.

    The paper's figures: 30 degrees, a tenth, 31 angles, 5 x 5 shifts. padding: what comes in at the edge, "zeros" (the
    lower bound of the box; the paper's), "border" or "reflection". Pixels are interpolated linearly.

    >>> len(Spatial().costs())
    775
    """

    rotation: float = 30.0
    translation: float = 0.1
    turns: int = 31
    shifts: int = 5
    padding: str = "zeros"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", checked_bounds(self.bounds))
        for name, value, most in (("rotation", self.rotation, 180), ("translation", self.translation, 1)):
            if not 0 <= parse_number(value, name) <= most:
                raise InputError(f"{name} must lie in 0..{most}, got {value!r}")
            object.__setattr__(self, name, parse_number(value, name))
        for name, count in (("turns", self.turns), ("shifts", self.shifts)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1 or count % 2 == 0:
                raise InputError(f"{name} must be an odd number, so that doing nothing is on the grid, got {count!r}")
        if self.padding not in PADDINGS:
            raise InputError(f"padding must be one of {', '.join(PADDINGS)}, got {self.padding!r}")

    @property
    def norm(self) -> str:
        """The name of this kind of threat."""
        return "spatial"

    @property
    def eps(self) -> float:
        """1: costs are shares of the largest turn and shift."""
        return 1.0

    @property
    def eps_text(self) -> str:
        """Both limits."""
        turned, shifted = self.grid().amax(0)[:2].tolist()
        return f"{turned * self.rotation:g}° and {100 * shifted * self.translation:g} %"

    def grid(self) -> Tensor:
        """Every change as angle, shift to the right and shift down, each as a share of its limit, float64 (G, 3)."""
        angle = _ticks(self.turns if self.rotation else 1)
        shift = _ticks(self.shifts if self.translation else 1)
        return torch.cartesian_prod(angle, shift, shift)

    def costs(self) -> Tensor:
        """The largest of the three shares."""
        return self.grid().abs().amax(1)

    def apply(self, originals: Tensor, change: Tensor) -> Tensor:
        """The turned and shifted images."""
        size = [len(change), 1, *originals.shape[2:]]
        places = functional.affine_grid(self._maps(originals, change), size, align_corners=False)
        return self._sampled(originals, places)

    def shortlist(self, originals: Tensor, candidates: Tensor) -> Tensor:
        """The changes that are right about some pixels, spread over the picture."""
        check_pictures(originals)
        height, width = originals.shape[2:]
        probes = torch.randperm(height * width, generator=torch.Generator().manual_seed(0))[:PROBES]
        y, x = (2 * (probes // width) + 1) / height - 1, (2 * (probes % width) + 1) / width - 1
        at = torch.stack([x, y, torch.ones_like(x)]).to(originals)
        places = (self._maps(originals, torch.arange(len(self.costs()))) @ at).transpose(1, 2)
        listed = [
            self.alike(
                self._sampled(original[None], places[None]).squeeze(0).transpose(0, 1),
                candidate.flatten(1)[:, probes][:, None].transpose(0, 1),
            )
            for original, candidate in zip(originals, candidates, strict=True)
        ]
        return torch.stack(listed)

    def key(self) -> dict[str, Any]:
        """Kind, limits, grid, padding and box."""
        limits = {"rotation": self.rotation, "translation": self.translation, "turns": self.turns}
        return {"norm": self.norm, **limits, "shifts": self.shifts, "padding": self.padding, "bounds": self.bounds}

    def _maps(self, images: Tensor, change: Tensor) -> Tensor:
        """Where the pixels of the new picture come from, as affine maps of [-1, 1]², (G, 2, 3)."""
        angle, right, down = self.grid()[change.cpu()].T.to(images)
        turn = angle * math.radians(self.rotation)
        aspect = images.shape[2] / images.shape[3]
        cos, sin = turn.cos(), turn.sin()
        x, y = -2 * self.translation * right, -2 * self.translation * down
        rows = [torch.stack([cos, sin * aspect, cos * x + sin * aspect * y], 1)]
        rows += [torch.stack([-sin / aspect, cos, -sin / aspect * x + cos * y], 1)]
        return torch.stack(rows, 1)

    def _sampled(self, images: Tensor, places: Tensor) -> Tensor:
        low, high = self.bounds
        found = functional.grid_sample(images - low, places, "bilinear", self.padding, align_corners=False)
        return (found + low).clamp(low, high)


def _ticks(count: int) -> Tensor:
    """`count` places from -1 to 1, or 0 alone."""
    return torch.linspace(-1, 1, count, dtype=torch.float64) if count > 1 else torch.zeros(1, dtype=torch.float64)
