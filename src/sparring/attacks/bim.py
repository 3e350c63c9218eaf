"""Basic iterative method (Kurakin, Goodfellow & Bengio 2017, arXiv:1607.02533)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import climb_once
from sparring.attacks.base import Attack, at_least, checked_flag
from sparring.losses import Loss
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class BIM(Attack):
    """FGSM in small steps from the image itself, projected after each; keeps the best iterate per image.

    steps: gradients. step_size: in image units, None for 2.5·eps/steps. early_stop: solved images leave at once,
    hopeless ones (see PGD) too.
    """

    paper: ClassVar[str] = "Kurakin, Goodfellow & Bengio, Adversarial Examples in the Physical World, ICLR-W 2017"

    steps: int = 10
    step_size: float | None = None
    loss: str | Loss = "cross_entropy"
    early_stop: bool = True

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("steps", self.steps, 1, whole=True)
        checked_flag("early_stop", self.early_stop)
        if self.step_size is not None:
            at_least("step_size", self.step_size, 0)

    def run(self, problem: Problem) -> Tensor:
        """The best iterate per image."""
        return climb_once(problem, self.steps, self.step_size, loss=self.loss, leave_early=self.early_stop)
