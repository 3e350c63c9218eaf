"""Carlini & Wagner's attacks (2017, arXiv:1608.04644): l2, linf and l0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.attacks import cw_l0, cw_l2, cw_linf
from sparring.attacks.base import at_least
from sparring.attacks.cw_core import Finds
from sparring.attacks.minimal import MinimalAttack
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(MinimalAttack):
    """Adam on the difference of logits f6 of the paper, weighed against the distance.

    l2: minimise ‖δ‖² + c·max(0, confidence - margin), with the c that just suffices: it begins where a linear model
    would need it (the paper's fixed start depends on the scale of the logits), grows until it does, then is halved in.
    A descent begins at the best point found so far, or where the last one ended.
    linf: the paper's penalty on what sticks out of ±τ in its hard limit: δ is clipped to ±τ, and τ lowered whenever the
    image is fooled. l0: the pixels that matter least by gradient times change are put back, until the rest cannot do.

    The box is kept by clipping, not by tanh: under tanh, pixels that are exactly 0 or 1 never move.

    steps: gradients per descent at most; one that stalls ends early. search_steps: values of c at most; linf and l0
    take steps·search_steps gradients at most (the paper's 10,000 and 20 are for a search that always begins anew).
    learning_rate: largest step of Adam in units of the box (the paper's 0.01); where the boundary seems near, steps are
    shorter; for l0, where a pixel may go anywhere, 30 times as long. confidence: margin in logits that an adversarial
    must have; without one that has it, the nearest of any margin is returned.
    """

    threats: ClassVar[tuple[str, ...]] = ("l2", "linf", "l0")
    paper: ClassVar[str] = "Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, IEEE S&P 2017"

    steps: int = 100
    search_steps: int = 5
    learning_rate: float = 0.01
    confidence: float = 0.0

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1, whole=True)
        at_least("search_steps", self.search_steps, 1, whole=True)
        at_least("learning_rate", self.learning_rate, 0)
        at_least("confidence", self.confidence, 0)

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The nearest adversarial of all descents, drawn in towards the image."""
        finds = Finds(problem, self.confidence)
        low, high = problem.threat.bounds
        rate, budget = self.learning_rate * (high - low), self.steps * self.search_steps
        patience = min(max(8, self.steps // 10), max(1, budget // 4))
        if problem.threat.norm == "l2":
            cw_l2.search(problem, finds, enough, steps=self.steps, rounds=self.search_steps, rate=rate)
        elif problem.threat.norm == "linf":
            cw_linf.search(problem, finds, enough, steps=budget, patience=patience, rate=rate)
        else:
            cw_l0.search(problem, finds, enough, steps=budget, patience=patience, rate=30 * rate)
        return finds.settled(problem, 0 if problem.threat.norm == "l0" else 4, enough)
