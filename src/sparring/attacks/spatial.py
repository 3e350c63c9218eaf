"""The worst of finitely many changes: all of them, or some drawn at random (Engstrom et al. 2019, arXiv:1712.02779)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack, at_least
from sparring.perturbations.base import threat_of
from sparring.perturbations.finite import FiniteThreat
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class WorstOf(Attack):
    """Tries the changes of a finite threat, such as turns or corruptions, and keeps the worst. Needs no gradient.

    draws: changes tried per image, drawn without repeats (the paper's worst of 10); None for every one, the costliest
    first: then nothing of the threat is left, and the robust accuracy is exact. Images that fall leave at once.
    """

    access: ClassVar[str] = "logits"
    threats: ClassVar[tuple[str, ...]] = ("spatial", "corruption")
    paper: ClassVar[str] = "Engstrom et al., Exploring the Landscape of Spatial Robustness, ICML 2019"

    draws: int | None = None

    def __post_init__(self) -> None:
        if self.draws is not None:
            at_least("draws", self.draws, 1, whole=True)

    def run(self, problem: Problem) -> Tensor:
        """The change that came nearest to the goal, per image; the image itself if none came nearer."""
        threat = threat_of(problem, FiniteThreat)  # type: ignore[type-abstract]
        costs = threat.costs().to(problem.images.device)
        if self.draws is None:
            order = costs.argsort(descending=True, stable=True).expand(len(problem), -1)
        else:
            order = problem.streams.uniform(costs.shape, problem.images).argsort(1)[:, : self.draws]
        best = Best(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        for change in order.T:
            points = threat.apply(problem.images, change[rows])
            logits = problem.logits(points)
            best.offer(rows, points, problem.goal.is_met(logits), problem.loss_values(logits, "margin"))
            keep = ~problem.solved(logits)
            problem, rows = problem.select(keep), rows[keep]
            if len(rows) == 0:
                break
        return best.points
