"""Fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import norms
from sparring.attacks.base import at_least
from sparring.attacks.hyperplane import Hyperplane, nearest_boundary, rivals_of
from sparring.attacks.minimal import MinimalAttack, Nearest, length
from sparring.norms import per_image
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class FAB(MinimalAttack):
    """Takes the model for linear and goes to the nearest boundary inside the box, drawn towards the point of that
    boundary nearest to the image; from every adversarial it goes back towards the image.

    steps, alpha_max, eta, beta: the paper's 100 (its largest draw towards the image), 0.1, 1.05 (overshoot) and 0.9
    (what is left of the perturbation on the way back). restarts: the first starts at the image, the others at random,
    half as far as the nearest adversarial (AutoAttack has 1; on robust nets the second comes nearer).
    targets: 0 for a step towards the nearest of all boundaries, a gradient for each; k for the targeted form (FAB-T),
    one run for each of the k strongest other classes with one gradient a step. classes: the label and its strongest
    rivals; all of them are looked at every tenth step, else the `close` nearest.
    search_steps: forward passes of the final bisection. The model is asked once a step: an adversarial's own gradient
    serves for the step back from it.
    """

    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    paper: ClassVar[str] = (
        "Croce & Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020"
    )

    steps: int = 100
    restarts: int = 2
    targets: int = 0
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    classes: int = 10
    close: int = 3
    search_steps: int = 3

    def __post_init__(self) -> None:
        least = {"steps": 1, "restarts": 1, "targets": 0, "classes": 2, "close": 1, "search_steps": 0}
        for name, low in least.items():
            at_least(name, getattr(self, name), low, whole=True)
        for name, low in (("alpha_max", 0), ("eta", 1), ("beta", 0)):
            at_least(name, getattr(self, name), low)

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The nearest adversarial of all runs, drawn in towards the image."""
        best = Nearest(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        logits = problem.logits(problem.images)
        best.offer(rows, problem.images, problem.solved(logits))
        rivals = rivals_of(problem, logits, self.targets or self.classes - 1)
        one_by_one = self.targets > 0 and rivals is not None
        for restart in range(self.restarts):
            for target in rivals.unbind(1) if rivals is not None and one_by_one else [None]:
                left = best.distance > enough
                task = (problem if target is None else problem.aiming(target)).select(left)
                some = rivals[left] if rivals is not None and target is None else None
                start = task.images if restart == 0 else _random_start(task, best.distance[left], enough)
                self._search(task, rows[left], start, some, best, enough)
        best.draw_in(problem, self.search_steps, enough)
        return best.points

    def _search(
        self, problem: Problem, rows: Tensor, points: Tensor, rivals: Tensor | None, best: Nearest, enough: float
    ) -> None:
        """One run from `points`; `rows` are the images' places in `best`."""
        close = rivals
        for step in range(self.steps):
            if not len(rows):
                return
            boundary = nearest_boundary(problem, points, rivals if step % 10 == 0 else close)
            close = boundary.close(self.close) if step % 10 == 0 else close
            met = problem.solved(boundary.logits)
            best.offer(rows, points, met)
            left = best.distance[rows] > enough
            if not bool(left.all()):
                boundary, rows, met = boundary.select(left), rows[left], met[left]
                rivals, close = (None if some is None else some[left] for some in (rivals, close))
                problem = boundary.problem
            points = self._next(boundary, met)
        if len(rows):
            best.offer(rows, points, problem.solved(problem.logits(points)))

    def _next(self, boundary: Hyperplane, met: Tensor) -> Tensor:
        images, region = boundary.problem.images, boundary.problem.region
        back = images + self.beta * (boundary.points - images)
        base = torch.where(per_image(met, images), back, boundary.points)
        here, there = (boundary.way(start, boundary.rounding) for start in (base, images))
        near, far = length(here, region.norm), length(there, region.norm)
        alpha = per_image((near / (near + far).clamp_min(1e-12)).clamp_max(self.alpha_max), images)
        points = (1 - alpha) * (base + self.eta * here) + alpha * (images + self.eta * there)
        return torch.clamp(points, region.lower, region.upper)


def _random_start(problem: Problem, distance: Tensor, enough: float) -> Tensor:
    """Half as far as the nearest adversarial; where there is none, half the budget, or a tenth of the box."""
    region = problem.region
    default = enough if enough > 0 else 0.2 * problem.threat.eps
    radius = torch.where(distance.isfinite(), distance, default) / 2
    lo, hi = (region.lower - region.originals).flatten(1), (region.upper - region.originals).flatten(1)
    delta = norms.sample(problem.streams, radius, region.norm, lo, hi)
    return torch.clamp(region.originals + delta.view_as(region.originals), region.lower, region.upper)
