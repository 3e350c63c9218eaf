"""What the minimal-norm attacks share: the public search for the nearest adversarial, and its bookkeeping."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring import norms
from sparring.attacks.base import Attack, opened
from sparring.goal import Goal
from sparring.model import Model
from sparring.problem import Problem
from sparring.threat import ThreatModel


class Nearest:
    """The nearest point seen per image that meets the goal by more than rounding; infinitely far before the first."""

    def __init__(self, problem: Problem) -> None:
        self.points = problem.images.clone()
        self.distance = torch.full((len(problem),), torch.inf, dtype=torch.float64, device=self.points.device)
        self._norm, self._originals = problem.threat.norm, problem.images

    def offer(self, rows: Tensor, points: Tensor, met: Tensor) -> None:
        """Take over the offered points (M, C, H, W) that are `met` (M,) and nearer; `rows` (M,): whose they are."""
        far = norms.distance(points.double() - self._originals[rows].double(), self._norm)
        better = met & (far < self.distance[rows])
        taken = rows[better]
        self.points[taken] = points[better]
        self.distance[taken] = far[better]


@dataclass(frozen=True, kw_only=True)
class MinimalAttack(Attack):
    """Searches for the adversarial nearest to the image, instead of any inside a budget.

    As a budget attack (called, or through `sparring.evaluate`) it stops for an image at the first adversarial inside
    the budget. A subclass writes only `nearest`.
    """

    def minimize(
        self,
        model: Model,
        images: Tensor,
        goal: Goal,
        threat: ThreatModel,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The nearest adversarials found for `images` (N, C, H, W) in the threat's norm, box and mask; its `eps` is
        ignored. Where none was found, the image itself. Raises as the call does.
        """
        with opened(self, model, images, goal, threat, generator) as problem:
            return self.nearest(problem.widened(), 0.0)

    def run(self, problem: Problem) -> Tensor:
        """The nearest points found, projected into the budget where they lie beyond it."""
        return problem.region.project(self.nearest(problem.widened(), problem.threat.eps))

    @abstractmethod
    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The nearest points (N, C, H, W) that meet the goal, inside box and mask; the image where none was found.

        An image whose distance is `enough` or less may leave the search. `problem`'s own budget reaches the whole box.
        """
