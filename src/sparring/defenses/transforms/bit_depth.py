"""Fewer grey levels per channel (Xu, Evans & Qi 2018, arXiv:1704.01155)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.transforms.base import Transform
from sparring.errors import InputError

SHARPNESS = 10.0
"""How steep the surrogate's stairs are: a rise takes a few tenths of a level."""


@dataclass(frozen=True, kw_only=True)
class BitDepth(Transform):
    """round(x·(2ᵇ - 1)) / (2ᵇ - 1) with b = `bits` per channel. Backward, stairs with smooth edges stand in."""

    gradient: ClassVar[str] = "surrogate"
    paper: ClassVar[str] = "Xu, Evans & Qi, Feature Squeezing, NDSS 2018"

    bits: int = 5

    def __post_init__(self) -> None:
        at_least("bits", self.bits, 1, whole=True)
        if self.bits > 8:
            raise InputError(f"bits must be a whole number from 1 to 8, got {self.bits}")

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """The nearest of the levels."""
        return to_levels(images, 2**self.bits - 1)

    def soft(self, images: Tensor, drawn: Any) -> Tensor:
        """Smooth stairs."""
        return smooth_levels(images, 2**self.bits - 1)


def to_levels(images: Tensor, steps: float | Tensor) -> Tensor:
    """The nearest of `steps` + 1 equally spaced levels from 0 to 1."""
    return (images * steps).round() / steps


def smooth_levels(images: Tensor, steps: float | Tensor) -> Tensor:
    """`to_levels` with each jump replaced by a steep sigmoid."""
    place = images * steps
    below = place.detach().floor()
    return (below + torch.sigmoid(SHARPNESS * (place - below - 0.5))) / steps
