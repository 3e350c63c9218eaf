"""RS-FGSM, one step from a random start (Wong, Rice & Kolter 2020, arXiv:2001.03994)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.hardening.craft import check_positive, noisy, single_step
from sparring.hardening.method import Batch, Method, mean_loss


@dataclass(frozen=True, kw_only=True)
class RSFGSM(Method):
    """One step from a random point of the ball, projected back: almost PGD's robustness at a quarter of its cost.

    step: its length as a multiple of eps (the paper's 1.25). random_start: without it this is plain FGSM training,
    which collapses: the model learns to hide its gradient at the image (catastrophic overfitting).
    """

    paper: ClassVar[str] = "Wong et al., Fast Is Better Than Free: Revisiting Adversarial Training, ICLR 2020"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")

    step: float = 1.25
    random_start: bool = True

    def __post_init__(self) -> None:
        check_positive("step", self.step)

    def craft(self, batch: Batch) -> Tensor:
        """Random start, one step, projection."""
        region = batch.threat.around(batch.images)
        start = noisy(batch, batch.threat.eps) if self.random_start else batch.images
        return single_step(batch, region, start, self.step * batch.threat.eps)

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean loss at the points."""
        return mean_loss(batch, points)
