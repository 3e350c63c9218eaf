"""Additive Gaussian noise (Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918, without the vote)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.transforms.base import Transform
from sparring.rng import Streams


@dataclass(frozen=True, kw_only=True)
class Noise(Transform):
    """Gaussian noise of standard deviation `std`, cut off at 0 and 1."""

    random: ClassVar[bool] = True
    paper: ClassVar[str] = "Cohen, Rosenfeld & Kolter, Certified Adversarial Robustness via Smoothing, ICML 2019"

    std: float = 0.05

    def __post_init__(self) -> None:
        at_least("std", self.std, 0)

    def draw(self, images: Tensor, streams: Streams) -> Tensor:
        """Standard normal, one number per pixel."""
        return streams.normal(images.shape[1:], images)

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """The sum, clamped."""
        noisy: Tensor = images + self.std * drawn
        return noisy.clamp(0, 1)
