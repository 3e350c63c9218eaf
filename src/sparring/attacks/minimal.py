"""What the minimal-norm attacks share: the public search for the nearest adversarial, and its bookkeeping."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparring import norms
from sparring.attacks.base import Attack, opened
from sparring.goal import Goal
from sparring.losses import Loss
from sparring.model import Model
from sparring.problem import Problem
from sparring.threat import Region, ThreatModel


class Nearest:
    """The nearest point seen per image that meets the goal by more than rounding; infinitely far before the first."""

    def __init__(self, problem: Problem) -> None:
        self.points = problem.images.clone()
        self.distance = torch.full((len(problem),), torch.inf, dtype=self.points.dtype, device=self.points.device)
        self._norm, self._originals = problem.threat.norm, problem.images

    def offer(self, rows: Tensor, points: Tensor, met: Tensor) -> None:
        """Take over the offered points (M, C, H, W) that are `met` (M,) and nearer; `rows` (M,): whose they are."""
        if not bool(met.any()):
            return
        rows, points = rows[met], points[met]
        far = length(points - self._originals[rows], self._norm)
        better = far < self.distance[rows]
        taken = rows[better]
        self.points[taken] = points[better]
        self.distance[taken] = far[better]

    @property
    def found(self) -> Tensor:
        """Bool (N,): there is one."""
        return self.distance.isfinite()

    def draw_in(self, problem: Problem, steps: int, enough: float = 0.0) -> None:
        """Bring every find nearer to its image with `steps` forward passes at projections of it into smaller balls:
        1 % smaller first, then by twice as much after a success and a quarter of it after a failure. `problem` holds
        all images; those no farther than `enough` are left as they are.
        """
        beyond = self.found & (self.distance > enough)
        rows = beyond.nonzero().flatten()
        if not len(rows) or not steps:
            return
        problem = problem.select(beyond)
        region, delta = problem.region, (self.points[rows] - problem.images).flatten(1)
        lo, hi = (region.lower - problem.images).flatten(1), (region.upper - problem.images).flatten(1)
        share = torch.full_like(self.distance[rows], 0.01)
        for _ in range(steps):
            radius = self.distance[rows] * (1 - share.clamp_max(1))
            moved = norms.project(delta, radius.floor() if self._norm == "l0" else radius, self._norm, lo, hi)
            points = torch.clamp(problem.images + moved.view_as(problem.images), region.lower, region.upper)
            met = problem.solved(problem.logits(points))
            self.offer(rows, points, met)
            share = torch.where(met, 2 * share, share / 4)


class Pace:
    """How far each image is on a schedule of `steps` steps. Where the distance stalls, the schedule runs ahead.

    Three steps that bring an image less than 1 % nearer say that steps of this size have done what they can: `skip`
    steps of the schedule are then left out. An image at the end of its schedule is done.
    """

    PATIENCE, GAIN = 3, 0.01

    def __init__(self, n: int, steps: int, skip: int, like: Tensor) -> None:
        self.progress = torch.zeros(n, dtype=like.dtype, device=like.device)
        self._mark = torch.full_like(self.progress, torch.inf)
        self._steps, self._skip, self._taken = steps, skip, 0

    def advance(self, distance: Tensor) -> Tensor:
        """One step has led to the nearest distances `distance` (M,); returns which images (M,) are not done yet."""
        self._taken += 1
        skipped: Tensor | float = 0.0
        if self._taken % self.PATIENCE == 0:
            skipped = self._skip * (self._mark.isfinite() & (distance > (1 - self.GAIN) * self._mark))
            self._mark = distance.clone()
        self.progress = self.progress + (1 + skipped) / self._steps
        return self.progress < 1 - 1e-6

    def keep(self, mask: Tensor) -> None:
        """Forget the images where `mask` (M,) is false."""
        self.progress, self._mark = self.progress[mask], self._mark[mask]

    def between(self, first: float, last: float) -> Tensor:
        """A value per image (M,) that falls from `first` to `last` along half a cosine."""
        return last + (first - last) * (1 + torch.cos(math.pi * self.progress)) / 2


@dataclass(frozen=True, eq=False)
class Position:
    """Where a walk along the boundary is, image by image: what its next move may depend on.

    `shortfall` (N,): how far from the goal, in logits. `met` (N,): the goal is met here; `found`: it was met somewhere.
    """

    problem: Problem
    rows: Tensor
    points: Tensor
    radius: Tensor
    grad: Tensor
    shortfall: Tensor
    met: Tensor
    found: Tensor

    def select(self, mask: Tensor) -> Position:
        """The images where `mask` (N,) is true."""
        kept = {field.name: getattr(self, field.name)[mask] for field in fields(self) if field.name != "problem"}
        return Position(problem=self.problem.select(mask), **kept)

    @property
    def boundary(self) -> Tensor:
        """Distance (N,) from the image at which the boundary would be, were it linear and straight ahead."""
        norm = self.problem.threat.norm
        ahead = self.shortfall.clamp_min(0) / dual_length(self.grad, norm)
        return length(self.points - self.problem.images, norm) + ahead

    @property
    def outermost(self) -> Tensor:
        """Distance (N,) of the farthest corner of the box."""
        region = self.problem.region
        return length(torch.maximum(region.upper - region.originals, region.originals - region.lower), region.norm)


Move = Callable[[Position, Pace], tuple[Tensor, Tensor]]


def walk(problem: Problem, enough: float, pace: Pace, loss: str | Loss, move: Move) -> Nearest:
    """From the images, a gradient of `loss` at a time; `move` says from each where to go next and how far it may be
    from the image: (points, radius). Every point is looked at; an image leaves when its pace says so, or at `enough`.
    """
    best = Nearest(problem)
    rows = torch.arange(len(problem), device=problem.images.device)
    points, radius = problem.images, problem.images.new_zeros(len(problem))
    while len(rows):
        at = problem.gradient(points, loss)
        met = problem.solved(at.logits)
        best.offer(rows, points, met)
        missing = problem.shortfalls(at.logits).nan_to_num(nan=torch.inf)
        grad = movable(at.grad, points, problem.region)
        here = Position(problem, rows, points, radius, grad, missing, met, best.found[rows])
        going_on = pace.advance(best.distance[rows]) & (best.distance[rows] > enough)
        if not bool(going_on.all()):
            here = here.select(going_on)
            pace.keep(going_on)
            problem, rows = here.problem, here.rows
        if len(rows):
            points, radius = move(here, pace)
    return best


def movable(grad: Tensor, points: Tensor, region: Region) -> Tensor:
    """`grad` (N, ...) without the coordinates that mask or box keep from following it."""
    room = torch.where(grad > 0, region.upper - points, points - region.lower)
    return torch.where(room > 0, grad, torch.zeros_like(grad))


def length(delta: Tensor, norm: str) -> Tensor:
    """‖delta‖ per image (N,) in its own precision: for the inner loop; `norms.distance` is for verdicts."""
    order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}[norm]
    return torch.linalg.vector_norm(delta.flatten(1), order, dim=1)  # type: ignore[no-any-return]


def dual_length(grad: Tensor, norm: str) -> Tensor:
    """The dual norm of every gradient (N,), never 0: margin / dual_length is the distance of a linear boundary.

    For l0, where a change may be as long as the box allows, the largest entry.
    """
    dual = {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}[norm]
    return length(grad, dual).clamp_min(torch.finfo(grad.dtype).tiny)


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
