"""Fast Gradient Sign Method (Goodfellow, Shlens & Szegedy 2015, arXiv:1412.6572)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from sparring import losses
from sparring.attacks.base import Attack, at_least, checked_choice, checked_flag
from sparring.errors import InputError
from sparring.goal import Goal, Targeted
from sparring.losses import Loss
from sparring.problem import Problem
from sparring.targets import least_likely

AIMS = ("label", "least_likely")


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One gradient, one step: x + argmax over the allowed delta of ∇L(x)·delta.

    linf: eps·sign(∇L), then clipped to the box. Other norms take the exact steepest step of ball ∩ box.

    loss: "cross_entropy" (the paper), "margin", "dlr", or a function (logits, goal) -> (N,).
    aim: "label" climbs the loss of the label (or descends to the target); "least_likely" descends towards the
    class the model finds least likely (Kurakin et al. 2017, arXiv:1611.01236), untargeted goals only.
    random_start: begin at a random point of the ball (Wong et al. 2020, arXiv:2001.03994, with step=1.25).
    step: length of the step in multiples of eps; the result is projected back.
    """

    paper: ClassVar[str] = "Goodfellow, Shlens & Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015"

    loss: str | Loss = "cross_entropy"
    aim: str = "label"
    random_start: bool = False
    step: float = 1.0

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("step", self.step, 0)
        checked_choice("aim", self.aim, AIMS)
        checked_flag("random_start", self.random_start)

    def run(self, problem: Problem) -> Tensor:
        """One step per image; the image itself where the gradient is zero."""
        if self.aim == "least_likely" and isinstance(problem.goal, Targeted):
            raise InputError("aim='least_likely' chooses the target itself: use it with an untargeted goal")
        loss = _towards_least_likely if self.aim == "least_likely" else self.loss
        region = problem.region
        start = region.sample(problem.streams) if self.random_start else problem.images
        grad = problem.gradient(start, loss).grad
        if self.random_start or self.step != 1:
            return region.advance(start, grad, self.step * region.eps)
        return region.project(problem.images + region.steepest_step(grad))


def _towards_least_likely(logits: Tensor, goal: Goal) -> Tensor:
    return -functional.cross_entropy(logits, least_likely(logits, goal.reference), reduction="none")
