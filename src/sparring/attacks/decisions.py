"""What the attacks that see only labels share: counted questions, a first adversarial, the way back to the image."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparring.attacks.base import at_least, opened
from sparring.attacks.minimal import MinimalAttack, Nearest, length
from sparring.attacks.windows import Canvas
from sparring.errors import InputError
from sparring.goal import Goal
from sparring.model import Model
from sparring.norms import per_image
from sparring.problem import Problem
from sparring.threat import ThreatModel

OVERSHOOT = 1e-3
"""How much further than the nearest adversarial found the returned one lies, as a share of its distance."""
CELLS = (1, 2, 4, 8, 16)
"""Sides, in pixels, of the cells of the random pictures that the search begins from."""


class Judge:
    """Answers yes or no to points, from predictions alone, and counts the questions left for every image."""

    def __init__(self, problem: Problem, queries: int) -> None:
        self.problem = problem
        self.left = torch.full((len(problem),), queries, device=problem.images.device)
        self.nearest = Nearest(problem)

    def met(self, rows: Tensor, points: Tensor) -> Tensor:
        """Bool (Q,): whether the `points` (Q, C, H, W) of images `rows` (Q,) meet the goal. Costs a query each."""
        logits = self.problem.logits_at(points, rows)
        self.left.index_add_(0, rows, -torch.ones_like(rows))
        return self.problem.goal.select(rows).is_met(logits)

    def going(self, enough: float) -> Tensor:
        """The images, as indices (M,), whose search goes on: something found, not `enough` yet, and queries left."""
        far = self.nearest.distance
        return (far.isfinite() & (far > enough) & (self.left > 0)).nonzero().flatten()

    def draw(self, rows: Tensor, number: int) -> Tensor:
        """`number` standard normal pictures (M, number, C, H, W) for the images `rows` (M,), zero where the mask is."""
        problem = self.problem
        chosen = torch.zeros(len(problem), dtype=torch.bool, device=rows.device)
        chosen[rows] = True
        drawn = problem.streams.select(chosen).normal((number, *problem.images.shape[1:]), problem.images)
        return drawn * (problem.region.upper[rows] > problem.region.lower[rows])[:, None]

    def distance(self, rows: Tensor, points: Tensor) -> Tensor:
        """‖point - image‖ (Q,) in the threat's norm."""
        return length(points - self.problem.images[rows], self.problem.threat.norm)

    def between(self, rows: Tensor, points: Tensor, share: Tensor) -> Tensor:
        """The point `share` (Q,) of the way from the image to `points`; in linf, their clip to that share of reach."""
        images = self.problem.images[rows]
        share = per_image(share, points)
        if self.problem.threat.norm == "linf":
            reach = share * per_image(self.distance(rows, points), points)
            moved = images + (points - images).clamp(-reach, reach)
        else:
            moved = images + share * (points - images)
        return self.clipped(rows, moved)

    def clipped(self, rows: Tensor, points: Tensor) -> Tensor:
        """`points` (Q, C, H, W) of images `rows` (Q,) back in the box, and unchanged where the mask says so."""
        region = self.problem.region
        return torch.clamp(points, region.lower[rows], region.upper[rows])

    def approach(self, rows: Tensor, points: Tensor, enough: float, precision: float) -> Tensor:
        """Bisect between image and adversarial `points` (Q, C, H, W) until the boundary is known to `precision`, a
        share of the distance, the distance is `enough`, or no query is left. Returns adversarial points.
        """
        low = torch.zeros(len(rows), dtype=points.dtype, device=points.device)
        high, points = torch.ones_like(low), points.clone()
        best, far = points.clone(), self.distance(rows, points)
        while True:
            going = (high - low > precision) & (self.left[rows] > 0) & (high * far > enough)
            active = going.nonzero().flatten()
            if len(active) == 0:
                break
            middle = (low[active] + high[active]) / 2
            tried = self.between(rows[active], points[active], middle)
            met = self.met(rows[active], tried)
            low[active], high[active] = low[active].where(met, middle), middle.where(met, high[active])
            best[active] = tried.where(per_image(met, tried), best[active])
        self.nearest.offer(rows, best, torch.ones_like(rows, dtype=torch.bool))
        return best


@dataclass(frozen=True, kw_only=True)
class DecisionAttack(MinimalAttack):
    """Walks along the boundary from a far adversarial to a near one, seeing nothing but predictions.

    A subclass writes only `walk`.
    """

    access: ClassVar[str] = "labels"

    queries: int = 5000

    def __post_init__(self) -> None:
        at_least("queries", self.queries, 1, whole=True)

    def minimize_from(
        self,
        starts: Tensor,
        model: Model,
        images: Tensor,
        goal: Goal,
        threat: ThreatModel,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """As `minimize`, from given points `starts` (N, C, H, W), such as photographs of the target classes.

        Where a start does not meet the goal (or the mask leaves nothing of it that does), the attack looks for its own.
        """
        if starts.shape != images.shape or not starts.is_floating_point():
            raise InputError(f"starts must be {images.dtype} {tuple(images.shape)}, got {tuple(starts.shape)}")
        with opened(self, model, images, goal, threat, generator) as problem:
            return self._search(problem.widened(), 0.0, starts.to(problem.images))

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The nearest adversarials found within `queries` questions per image."""
        return self._search(problem, enough, None)

    def _search(self, problem: Problem, enough: float, starts: Tensor | None) -> Tensor:
        judge = Judge(problem, self.queries - 1)  # one is kept for `settled`
        everyone = torch.arange(len(problem), device=problem.images.device)
        wrong = judge.met(everyone, problem.images)
        judge.nearest.offer(everyone, problem.images, wrong)
        rows = (~wrong).nonzero().flatten()
        if self.queries > 1:
            self.walk(judge, first_adversarials(judge, rows, starts), enough)
        return settled(judge, rows, enough)

    @abstractmethod
    def walk(self, judge: Judge, points: Tensor, enough: float) -> None:
        """Offer nearer and nearer adversarials to `judge.nearest`, from those found (finite distance).

        `points` (N, C, H, W) are far adversarials; an image at distance `enough` or without queries stops.
        """


def first_adversarials(judge: Judge, rows: Tensor, starts: Tensor | None) -> Tensor:
    """Any adversarial of the images `rows`, offered to `judge.nearest`; uniform noise, then coarser random pictures.

    The first try is `starts`, where given.
    """
    problem = judge.problem
    canvas = Canvas.of(problem.images, problem.threat)
    attempt = 0
    while len(rows) > 0:
        if starts is not None and attempt == 0:
            tried = torch.clamp(starts, problem.region.lower, problem.region.upper)[rows]
        else:
            tried = _random_picture(problem, canvas, rows, attempt)
        met = judge.met(rows, tried)
        judge.nearest.offer(rows, tried, met)
        rows = rows[~met & (judge.left[rows] > 0)]
        attempt += 1
    return judge.nearest.points.clone()


def settled(judge: Judge, rows: Tensor, enough: float) -> Tensor:
    """The nearest points, those of `rows` a thousandth further from their image where that still meets the goal.

    A search that sees only labels ends so near the boundary that another batch's rounding could undo what it found.
    """
    nearest, images = judge.nearest, judge.problem.images
    rows = rows[nearest.distance[rows].isfinite()]
    far, here = nearest.distance[rows], nearest.points[rows]
    room = torch.where(far < enough, enough / far, torch.inf)
    scale = per_image(room.clamp_max(1 + OVERSHOOT), here)
    tried = judge.clipped(rows, images[rows] + scale * (here - images[rows]))
    points = nearest.points.clone()
    points[rows] = tried.where(per_image(judge.met(rows, tried), tried), here)
    return points


def _random_picture(problem: Problem, canvas: Canvas, rows: Tensor, attempt: int) -> Tensor:
    """Cells of random colour, of a size that changes from attempt to attempt, half of them blended with the image."""
    chosen = torch.zeros(len(problem), dtype=torch.bool, device=rows.device)
    chosen[rows] = True
    side = CELLS[attempt % len(CELLS)]
    grid = (canvas.channels, -(-canvas.height // side), -(-canvas.width // side))
    cells = problem.streams.select(chosen).uniform(grid, problem.images)
    drawn = functional.interpolate(cells, scale_factor=side, mode="nearest")[..., : canvas.height, : canvas.width]
    low, high = problem.region.lower[rows], problem.region.upper[rows]
    picture = low + (high - low) * drawn.reshape(low.shape)
    if attempt // len(CELLS) % 2:
        picture = (picture + problem.images[rows]) / 2
    return picture.clamp(low, high)
