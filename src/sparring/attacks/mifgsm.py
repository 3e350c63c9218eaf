"""Momentum iterative FGSM (Dong et al. 2018, arXiv:1710.06081)."""

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
class MIFGSM(Attack):
    """BIM along an accumulated gradient: g ← decay·g + ∇L/‖∇L‖₁ (mean), from the image itself.

    steps, decay: the paper's 10 and 1.0. step_size: in image units, None for eps/steps (the paper's).
    early_stop: solved and hopeless images (see PGD) leave early; set it False when the adversarials are to transfer.
    """

    paper: ClassVar[str] = "Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018"

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    loss: str | Loss = "cross_entropy"
    early_stop: bool = True

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("steps", self.steps, 1, whole=True)
        at_least("decay", self.decay, 0)
        checked_flag("early_stop", self.early_stop)
        if self.step_size is not None:
            at_least("step_size", self.step_size, 0)

    def run(self, problem: Problem) -> Tensor:
        """The best iterate per image."""
        size = self.step_size
        if size is None and problem.threat.norm != "l0":
            size = problem.threat.eps / self.steps
        return climb_once(problem, self.steps, size, loss=self.loss, momentum=self.decay, leave_early=self.early_stop)
