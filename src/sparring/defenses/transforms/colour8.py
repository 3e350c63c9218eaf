"""24-bit colour to 8-bit colour (Xu, Evans & Qi 2018, arXiv:1704.01155, section on colour depth)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparring.defenses.transforms.base import Transform
from sparring.defenses.transforms.bit_depth import smooth_levels, to_levels

BITS = (3, 3, 2)
"""Of red, green and blue: the eye tells blues apart least."""


@dataclass(frozen=True, kw_only=True)
class Colour8(Transform):
    """256 colours: three bits of red, three of green, two of blue. A grey picture keeps its 256 grey levels.

    Backward, stairs with smooth edges stand in. Pictures of another number of channels are rounded like grey ones.
    """

    gradient: ClassVar[str] = "surrogate"
    paper: ClassVar[str] = "Xu, Evans & Qi, Feature Squeezing, NDSS 2018"

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """The nearest of the 256."""
        return to_levels(images, _steps(images))

    def soft(self, images: Tensor, drawn: Any) -> Tensor:
        """Smooth stairs."""
        return smooth_levels(images, _steps(images))


def _steps(images: Tensor) -> Tensor:
    bits = BITS if images.shape[1] == 3 else (8,) * images.shape[1]
    return images.new_tensor([2**b - 1 for b in bits]).view(1, -1, 1, 1)
