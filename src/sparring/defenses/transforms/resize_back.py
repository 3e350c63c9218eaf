"""Random resizing and scaling back: detail of a random size is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparring.defenses.transforms.base import Transform, share
from sparring.defenses.transforms.resampling import apply, back_again, resampler
from sparring.errors import InputError
from sparring.rng import Streams


@dataclass(frozen=True, kw_only=True)
class ResizeBack(Transform):
    """Resized to a random size between `smallest` and `largest` times its own, and back to its own size, bilinearly."""

    random: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Guo et al., Countering Adversarial Images using Input Transformations, ICLR 2018 (rescaling)"
    )

    smallest: float = 0.6
    largest: float = 1.0

    def __post_init__(self) -> None:
        share("smallest", self.smallest, high=4)
        share("largest", self.largest, high=4)
        if self.smallest > self.largest:
            raise InputError(f"smallest must not exceed largest, got {self.smallest:g} and {self.largest:g}")

    def draw(self, images: Tensor, streams: Streams) -> Tensor:
        """One number in [0, 1) per image."""
        return streams.uniform((), images)

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """There and back as one matrix per side."""
        sides = []
        for side in images.shape[2:]:
            to = (side * (self.smallest + (self.largest - self.smallest) * drawn)).round().clamp_min(1)
            frame = max(1, math.ceil(side * self.largest))
            there = resampler(side, frame, to, to * 0)
            sides.append(back_again(side, frame, to) @ there)
        return apply(images, *sides)
