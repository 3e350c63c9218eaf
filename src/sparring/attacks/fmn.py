"""Fast minimum-norm attack (Pintor et al. 2021, arXiv:2102.12827)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import norms
from sparring.attacks.base import at_least
from sparring.attacks.minimal import MinimalAttack, Pace, Position, length, walk
from sparring.norms import per_image
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class FMN(MinimalAttack):
    """Gradient steps on the margin, each projected into a ball whose radius follows the boundary: it shrinks by `gamma`
    while the image is adversarial and grows by `gamma` while it is not.

    steps: gradients at most. step_size: Euclidean length of the first step in units of the box; it falls to a
    hundredth along a cosine (the paper's 1). gamma: the first change of the radius (the paper's 0.05), which falls to
    `final_gamma` (0.001) along the same cosine; l0 changes by at least one feature. skip: so many steps of the schedule
    are left out whenever three in a row have brought an image less than 1 % nearer; 0 for the paper's fixed number.
    overshoot: until the first adversarial the radius is the distance of a linear boundary, and this share of it more;
    without it the search may come to rest just inside. search_steps: forward passes of the final bisection.
    """

    threats: ClassVar[tuple[str, ...]] = norms.NORMS
    paper: ClassVar[str] = (
        "Pintor et al., Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints, NeurIPS 2021"
    )

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    final_gamma: float = 0.001
    skip: int = 5
    overshoot: float = 0.01
    search_steps: int = 4

    def __post_init__(self) -> None:
        for name in ("steps", "skip", "search_steps"):
            at_least(name, getattr(self, name), int(name == "steps"), whole=True)
        for name in ("step_size", "gamma", "final_gamma", "overshoot"):
            at_least(name, getattr(self, name), 0)

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The nearest adversarial of the walk, drawn in towards the image."""
        pace = Pace(len(problem), self.steps, self.skip, problem.images)
        best = walk(problem, enough, pace, "margin", self._move)
        best.draw_in(problem, self.search_steps, enough)
        return best.points

    def _move(self, at: Position, pace: Pace) -> tuple[Tensor, Tensor]:
        problem, region = at.problem, at.problem.region
        radius = self._radius(at, pace)
        size = pace.between(self.step_size, self.step_size / 100) * _width(problem, radius)
        step = at.grad * per_image(size / length(at.grad, "l2").clamp_min(torch.finfo(size.dtype).tiny), at.grad)
        moved = torch.clamp(at.points + step, region.lower, region.upper) - problem.images
        inside = norms.shrink(moved.flatten(1), radius, region.norm).view_as(moved)
        return torch.clamp(problem.images + inside, region.lower, region.upper), radius

    def _radius(self, at: Position, pace: Pace) -> Tensor:
        gamma = pace.between(self.gamma, self.final_gamma)
        shrunk, grown = at.radius * (1 - gamma), at.radius * (1 + gamma)
        if at.problem.region.norm == "l0":
            shrunk = torch.minimum(shrunk.floor(), at.radius - 1).clamp_min(1)
            grown = torch.maximum(grown.floor(), at.radius + 1)
        else:
            ahead = at.boundary * (1 + self.overshoot)
            grown = torch.where(at.found, grown, ahead)
            shrunk = torch.minimum(shrunk, length(at.points - at.problem.images, at.problem.region.norm))
        return torch.where(at.met, shrunk, grown).minimum(at.outermost)


def _width(problem: Problem, radius: Tensor) -> Tensor:
    """Euclidean width (N,) of a ball of `radius` (N,) in the box; for l1, whose ball is all corners, a quarter."""
    low, high = problem.threat.bounds
    if problem.threat.norm == "linf":
        return 2 * radius * math.sqrt(problem.images[0].numel())
    if problem.threat.norm == "l2":
        return 2 * radius
    return (radius * (high - low)).sqrt() / 2 if problem.threat.norm == "l1" else 2 * radius.sqrt() * (high - low)
