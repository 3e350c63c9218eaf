"""DeepFool (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.attacks.hyperplane import Hyperplane, nearest_boundary, rivals_of
from sparring.attacks.minimal import MinimalAttack, Nearest
from sparring.norms import per_image
from sparring.problem import Problem

CLOSE_BY = 0.05


@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimalAttack):
    """Takes the model for linear: a step towards the nearest boundary of the label's class, clipped to the box, again
    and again until the image is on the other side.

    steps: at most so many (the authors' 50). step_size: share of the way to the boundary that a step goes (the authors'
    1; shorter ones see more of the model and end nearer); it grows to three times as much at the last step, so that no
    zigzag lasts. Where 5 % of the first margin is left, the rest of the way is one step, the shortest inside the box.
    overshoot: share of the margin by which it goes beyond (the authors' 0.02).
    classes: the label and its strongest rivals, classes - 1 of them (the authors' 10); after the first step only the
    `close` nearest of them are looked at. A target leaves one boundary: that with the strongest other class.
    """

    threats: ClassVar[tuple[str, ...]] = ("l2", "linf")
    paper: ClassVar[str] = (
        "Moosavi-Dezfooli et al., DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks, CVPR 2016"
    )

    steps: int = 50
    step_size: float = 0.6
    overshoot: float = 0.02
    classes: int = 10
    close: int = 2

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1, whole=True)
        at_least("step_size", self.step_size, 0)
        at_least("overshoot", self.overshoot, 0)
        at_least("classes", self.classes, 2, whole=True)
        at_least("close", self.close, 1, whole=True)

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The first adversarial; for an image that meets the goal, the image."""
        best = Nearest(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        logits = problem.logits(problem.images)
        left, margins = ~problem.solved(logits), problem.shortfalls(logits)
        best.offer(rows, problem.images, ~left)
        problem, rows = problem.select(left), rows[left]
        points, rivals = problem.images, rivals_of(problem, logits[left], self.classes - 1)
        for step in range(self.steps):
            if not len(rows):
                break
            boundary = nearest_boundary(problem, points, rivals)
            met = problem.solved(boundary.logits)
            best.offer(rows, points, met)
            boundary, rows = boundary.select(~met), rows[~met]
            problem, rivals = boundary.problem, boundary.close(self.close)
            points = self._next(boundary, margins[rows], self.step_size * (1 + 2 * step / self.steps))
        if len(rows):
            best.offer(rows, points, problem.solved(problem.logits(points)))
        return best.points

    def _next(self, boundary: Hyperplane, margins: Tensor, share: float) -> Tensor:
        """The points (N, C, H, W) to go to from the boundary's; `margins` (N,) are those of the images."""
        close_by = boundary.lead.abs() < CLOSE_BY * margins
        way = boundary.way(boundary.points, self.overshoot * boundary.lead.abs() + boundary.rounding, boxed=close_by)
        step = way * per_image(torch.where(close_by, 1.0, share).to(way.dtype), way)
        region = boundary.problem.region
        return torch.clamp(boundary.points + step, region.lower, region.upper)
