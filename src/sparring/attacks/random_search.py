"""Random search (Rastrigin 1963): change something at random, keep it if it helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack, at_least
from sparring.errors import InputError
from sparring.losses import Loss
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Attack):
    """Draws a random share of the pixels anew, from the whole budget, and keeps the draw where the loss grew.

    The plainest search that learns from its answers: where it beats a gradient attack, the gradient is masked, and
    where noise beats it, the model answers at random. queries: forward passes per image, at most. share: of the pixel
    values drawn anew.
    """

    access: ClassVar[str] = "logits"
    paper: ClassVar[str] = (
        "Rastrigin, The Convergence of the Random Search Method in the Extremal Control of a Many Parameter System, "
        "Automation and Remote Control 1963"
    )

    queries: int = 5000
    share: float = 0.1
    loss: str | Loss = "margin"

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("queries", self.queries, 1, whole=True)
        at_least("share", self.share, 0)
        if self.share > 1:
            raise InputError(f"share must be at most 1, got {self.share!r}")

    def run(self, problem: Problem) -> Tensor:
        """The best point per image."""
        best = Best(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        for query in range(self.queries):
            drawn = problem.region.sample(problem.streams)
            if query > 0:
                chosen = problem.streams.uniform(drawn.shape[1:], drawn) < self.share
                drawn = problem.region.project(drawn.where(chosen, best.points[rows]))
            logits = problem.logits(drawn)
            best.offer(rows, drawn, problem.goal.is_met(logits), problem.loss_values(logits, self.loss))
            solved = problem.solved(logits)
            if bool(solved.any()):
                problem, rows = problem.select(~solved), rows[~solved]
            if len(rows) == 0:
                break
        return best.points
