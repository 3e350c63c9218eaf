"""One ascent per wrong class (Gowal et al. 2019, arXiv:1910.09338)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import SCHEDULES, TOGETHER, Best, ascend, default_step_size, side_by_side, step_schedule
from sparring.attacks.base import Attack, at_least, checked_choice, checked_flag
from sparring.goal import Targeted
from sparring.losses import Loss
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class MultiTargeted(Attack):
    """Raises one wrong class after the other over the label, instead of whichever happens to lead.

    The classes with the largest logits at the image come first. targets: classes tried per image. steps: gradients
    per class. restarts: rounds over the classes; all but the first begin at random points, and go to the half of the
    classes that came nearest in the round before. random_start: the first does too. step_size, schedule, momentum: as
    in PGD and MIFGSM. loss: "margin" is z_target - z_label.
    Solved images leave at once; in linf and l2 an image leaves a class that it cannot reach in time. Where the goal
    is itself a target, that is the one class tried, in one run as long as all `targets` together.
    """

    paper: ClassVar[str] = (
        "Gowal et al., An Alternative Surrogate Loss for PGD-based Adversarial Testing, 2019, arXiv:1910.09338"
    )

    targets: int = 9
    steps: int = 20
    restarts: int = 1
    random_start: bool = False
    step_size: float | None = None
    schedule: str = "cosine"
    momentum: float = 0.0
    loss: str | Loss = "margin"

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        for name in ("targets", "steps", "restarts"):
            at_least(name, getattr(self, name), 1, whole=True)
        at_least("momentum", self.momentum, 0)
        if self.step_size is not None:
            at_least("step_size", self.step_size, 0)
        checked_choice("schedule", self.schedule, SCHEDULES)
        checked_flag("random_start", self.random_start)

    def run(self, problem: Problem) -> Tensor:
        """The point nearest to any wrong class, per image."""
        size = self.step_size
        if size is None:
            size = default_step_size(problem.threat, self.steps, self.schedule)
        best, rows = Best(problem), torch.arange(len(problem), device=problem.images.device)
        order = promising(problem, self.targets)
        one = isinstance(problem.goal, Targeted)
        sizes = step_schedule(self.schedule, size, self.steps * (self.targets if one else 1))
        sparse = problem.threat.norm in ("l1", "l0")
        for restart in range(self.restarts):
            reached = torch.full(order.shape, -torch.inf, dtype=best.values.dtype, device=order.device)
            for start in range(0, order.shape[1], TOGETHER):
                classes = order[rows, start : start + TOGETHER]
                climb = partial(self._climb, sizes=sizes, anew=restart > 0 or (self.random_start and not sparse))
                unsolved, values = side_by_side(problem, rows, best, classes, climb)
                reached[rows, start : start + TOGETHER] = values
                problem, rows = problem.select(unsolved), rows[unsolved]
                if len(rows) == 0:
                    return best.points
            order = order.gather(1, reached.topk(-(-order.shape[1] // 2), dim=1).indices)
        return best.points

    def _climb(self, problem: Problem, best: Best, *, sizes: list[float], anew: bool) -> Tensor:
        """One ascent from the images, or from random points; returns the rows still unsolved."""
        return ascend(
            problem,
            problem.region.sample(problem.streams) if anew else problem.images,
            best,
            torch.arange(len(problem), device=problem.images.device),
            loss=self.loss,
            step_sizes=sizes,
            momentum=self.momentum,
            leap=problem.threat.norm in ("l1", "l0") and not anew,
        )


def promising(problem: Problem, count: int) -> Tensor:
    """The `count` wrong classes with the largest logits at the images, best first, (N, count); a targeted goal's one
    class.
    """
    if isinstance(problem.goal, Targeted):
        return problem.goal.targets[:, None]
    logits = problem.logits(problem.images)
    others = logits.scatter(1, problem.goal.labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices
