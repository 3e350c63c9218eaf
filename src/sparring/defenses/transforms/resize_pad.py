"""Random resizing and padding (Xie et al. 2018, arXiv:1711.01991)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparring.defenses.transforms.base import Transform, share
from sparring.defenses.transforms.resampling import apply, resampler
from sparring.rng import Streams


@dataclass(frozen=True, kw_only=True)
class ResizePad(Transform):
    """Shrunk to a random size and set down at a random place of a black frame.

    smallest: least share of the side that the picture keeps. Xie et al. enlarge 299 pixels to 299..331 in a frame of
    331; here the frame keeps the picture's own size, so that any model takes it, and the default is their ratio.
    """

    random: ClassVar[bool] = True
    paper: ClassVar[str] = "Xie et al., Mitigating Adversarial Effects Through Randomization, ICLR 2018"

    smallest: float = 0.9

    def __post_init__(self) -> None:
        share("smallest", self.smallest)

    def draw(self, images: Tensor, streams: Streams) -> Tensor:
        """Three numbers in [0, 1) per image: size, place down, place right."""
        return streams.uniform((3,), images)

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """Resized, then placed."""
        sides = []
        for side, where in zip(images.shape[2:], drawn[:, 1:].unbind(1), strict=True):
            ratio = self.smallest + (1 - self.smallest) * drawn[:, 0]
            to = (side * ratio).round().clamp(1, side)
            sides.append(resampler(side, side, to, (where * (side - to + 1)).floor()))
        return apply(images, *sides)
