"""Noise while it learns, for the votes of randomised smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.attacks.base import at_least
from sparring.hardening.method import Batch, Method, mean_loss


@dataclass(frozen=True, kw_only=True)
class Gaussian(Method):
    """Every image with fresh normal noise of standard deviation `sigma`, beyond the box, too, as smoothing will show
    it: choose the sigma that will certify. No defence by itself: what it prepares is the smoothed model.

    sigma: the paper's 0.25, in units of the images.
    """

    paper: ClassVar[str] = "Cohen et al., Certified Adversarial Robustness via Randomized Smoothing, ICML 2019"
    threats: ClassVar[tuple[str, ...]] = ("l2",)

    sigma: float = 0.25

    def __post_init__(self) -> None:
        at_least("sigma", self.sigma, 0)

    def craft(self, batch: Batch) -> Tensor:
        """The images; the noise belongs to the loss."""
        return batch.images

    def shown(self, batch: Batch, points: Tensor) -> Tensor:
        """The images under fresh noise."""
        return points + self.sigma * batch.draws.normal(points.shape[1:], points)

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean loss under noise."""
        return mean_loss(batch, self.shown(batch, points))
