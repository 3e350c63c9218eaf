"""The model taken for linear: which boundary of the label's class is nearest, and the shortest way there in the box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring import norms
from sparring.attacks.minimal import dual_length
from sparring.goal import Targeted
from sparring.norms import per_image
from sparring.problem import Problem


@dataclass(frozen=True, eq=False)
class Hyperplane:
    """{z : grad·(z - points) + lead = 0} per image: the boundary that the model has, seen from `points` (N, C, H, W).

    lead (N,) is the rival's logit minus the label's, negative before the boundary. `rivals` (N, k): the classes it was
    chosen from, nearest first; None where the problem names the class.
    """

    problem: Problem
    points: Tensor
    grad: Tensor
    lead: Tensor
    logits: Tensor
    rivals: Tensor | None

    def select(self, mask: Tensor) -> Hyperplane:
        """Those of the images where `mask` (N,) is true."""
        rivals = None if self.rivals is None else self.rivals[mask]
        return Hyperplane(
            self.problem.select(mask), self.points[mask], self.grad[mask], self.lead[mask], self.logits[mask], rivals
        )

    def close(self, count: int) -> Tensor | None:
        """The `count` nearest rivals (N, count)."""
        return None if self.rivals is None else self.rivals[:, :count]

    @property
    def rounding(self) -> Tensor:
        """A lead (N,) that is more than rounding: what lies exactly on the boundary counts as no adversarial."""
        return 2e-5 * (1 + self.logits.abs().nan_to_num(posinf=0.0).amax(1))

    def way(self, start: Tensor, beyond: float | Tensor = 0.0, *, boxed: Tensor | None = None) -> Tensor:
        """The shortest delta that takes `start` (N, C, H, W) to where the lead is `beyond`: inside the box, and as far
        as the box allows if that is less. Where `boxed` (N,) is false, as if there were no box but only the mask.
        """
        region = self.problem.region
        here = self.lead + (self.grad * (start - self.points)).flatten(1).sum(1)
        lo, hi = (region.lower - start).flatten(1), (region.upper - start).flatten(1)
        if boxed is not None:
            reach = torch.where(hi > lo, torch.inf, 0.0).to(start.dtype)
            lo, hi = lo.where(boxed[:, None], -reach), hi.where(boxed[:, None], reach)
        return norms.shortest_step(self.grad.flatten(1), beyond - here, region.norm, lo, hi).view_as(start)


def rivals_of(problem: Problem, logits: Tensor, count: int) -> Tensor | None:
    """The `count` strongest classes (N, k) beside the label; None where the losses already aim at one."""
    if problem.aim is not None or isinstance(problem.goal, Targeted):
        return None
    others = logits.nan_to_num(nan=-torch.inf).scatter(1, problem.goal.reference[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def nearest_boundary(problem: Problem, points: Tensor, rivals: Tensor | None) -> Hyperplane:
    """The hyperplane nearest to `points` (N, C, H, W) among those of `rivals` (N, k); without rivals, that of the aim.

    One forward, k backwards (1 without rivals) per image.
    """
    if rivals is None:
        at = problem.gradient(points, "margin")
        return Hyperplane(problem, points, at.grad, at.values.nan_to_num(), at.logits, None)
    lower, upper, norm = points - problem.region.lower, problem.region.upper - points, problem.region.norm

    def distance(grads: Tensor, leads: Tensor, part: slice) -> Tensor:
        forward = (grads > 0) == per_image(leads < 0, grads)
        room = torch.where(forward, upper[part, None], lower[part, None])
        usable = torch.where(room > 0, grads, torch.zeros_like(grads))
        far = leads.abs() / dual_length(usable.flatten(0, 1), norm).view_as(leads)
        return far.nan_to_num(nan=torch.inf)

    found = problem.nearest_rival(points, rivals, distance)
    by_distance = rivals.gather(1, found.distances.argsort(dim=1))
    return Hyperplane(problem, points, found.grad, found.values.nan_to_num(), found.logits, by_distance)
