"""Uniform random noise: the baseline that no gradient attack may lose to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack, at_least
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Attack):
    """Draws points of the region at random and keeps the one with the smallest margin. Needs no gradient.

    draws: forward passes per image; images that fall leave at once.
    """

    access: ClassVar[str] = "labels"
    paper: ClassVar[str] = "Carlini et al., On Evaluating Adversarial Robustness, 2019 (arXiv:1902.06705), as a check"

    draws: int = 10

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1, whole=True)

    def run(self, problem: Problem) -> Tensor:
        """The draw that came nearest to the goal, per image."""
        best = Best(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        for _ in range(self.draws):
            points = problem.region.sample(problem.streams)
            logits = problem.logits(points)
            best.offer(rows, points, problem.goal.is_met(logits), problem.loss_values(logits, "margin"))
            keep = ~problem.solved(logits)
            problem, rows = problem.select(keep), rows[keep]
            if len(rows) == 0:
                break
        return best.points
