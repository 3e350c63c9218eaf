"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import SCHEDULES, Best, ascend, default_step_size, step_schedule
from sparring.attacks.base import Attack, at_least, checked_choice, checked_flag
from sparring.errors import InputError
from sparring.losses import Loss
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Many small steepest steps, each projected back onto ball ∩ box, from a random start.

    Returns the best iterate per image, not the last. steps: gradients per restart. step_size: in image units; None for
    eps where the schedule shrinks it, 2.5·eps/steps (the paper's rule) where it is constant. restarts: independent
    random starts; only unsolved images start again. schedule: "constant", "linear" or "cosine"; None for cosine, or
    constant where a step_size is given.
    early_stop: solved images leave at once, and so do those whose margin, at five times its recent pace and growth,
    cannot reach zero in the steps that remain (linf, l2; judged once the steps so far could have crossed the ball);
    without it every image gets every step.
    In l1 and l0 the first restart begins at the image with the exact steepest step (a random start there spends the
    few changes at random), and l1 steps are sparse (SLIDE, Tramèr & Boneh 2019, arXiv:1904.13000).
    """

    paper: ClassVar[str] = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: str | Loss = "cross_entropy"
    schedule: str | None = None
    early_stop: bool = True

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("steps", self.steps, 1, whole=True)
        at_least("restarts", self.restarts, 1, whole=True)
        if self.step_size is not None:
            at_least("step_size", self.step_size, 0)
        if self.schedule is not None:
            checked_choice("schedule", self.schedule, SCHEDULES)
        checked_flag("random_start", self.random_start)
        checked_flag("early_stop", self.early_stop)
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts > 1 without random_start repeat the same run: set random_start=True")

    def run(self, problem: Problem) -> Tensor:
        """The best iterate of all restarts, per image."""
        size = self.step_size
        schedule = self.schedule or ("cosine" if size is None else "constant")
        if size is None:
            size = default_step_size(problem.threat, self.steps, schedule)
        sizes = step_schedule(schedule, size, self.steps)
        best = Best(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        sparse = problem.threat.norm in ("l1", "l0")
        for restart in range(self.restarts):
            leap = sparse and restart == 0
            start = problem.region.sample(problem.streams) if self.random_start and not leap else problem.images
            left = ascend(
                problem, start, best, rows, loss=self.loss, step_sizes=sizes, leave_early=self.early_stop, leap=leap
            )
            if self.early_stop:
                problem, rows = problem.select(torch.isin(rows, left)), left
            if len(rows) == 0:
                break
        return best.points
