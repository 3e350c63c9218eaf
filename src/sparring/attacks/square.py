"""Square Attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search over squares, with logits alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack, at_least, checked_flag
from sparring.attacks.windows import Canvas, bump
from sparring.errors import InputError
from sparring.goal import Targeted
from sparring.losses import Loss
from sparring.norms import per_image
from sparring.problem import Problem

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After so many of 10,000 queries the windows' area is halved (the paper's schedule)."""
BLOCK = 64
"""Queries whose random numbers are drawn together."""
POWER = {"l2": 2, "l1": 1}


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Repaints one random window of the perturbation at a time and keeps what brings the image nearer to the goal.

    linf: vertical stripes to begin with, then squares of one sign per channel. l2: bumps of both signs in tiles, then
    the budget of one window moves into another; l1 likewise (Croce & Hein 2021, arXiv:2103.01208). queries: forward
    passes per image, at most, shared out over the restarts (5,000 in AutoAttack); an image that falls leaves at once.
    p_init: share of the image that the first windows cover (0.8 in AutoAttack), halved on the paper's schedule for
    10,000 queries. rescale: fit that to `queries` (off in AutoAttack, where 5,000 see the schedule's first half).
    loss: None for the paper's: the margin, or the cross-entropy where a target is given.

    Two things differ from the paper: a square that would change nothing is tried with the opposite signs, so that no
    query repeats the last one; and in l2 what the box cuts off is spent on the other pixels.
    """

    access: ClassVar[str] = "logits"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    paper: ClassVar[str] = (
        "Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack via random search, "
        "ECCV 2020"
    )

    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    loss: str | Loss | None = None
    rescale: bool = True

    def __post_init__(self) -> None:
        at_least("queries", self.queries, 1, whole=True)
        at_least("restarts", self.restarts, 1, whole=True)
        at_least("p_init", self.p_init, 0)
        if self.p_init > 1:
            raise InputError(f"p_init is a share of the image and must be <= 1, got {self.p_init!r}")
        if self.loss is not None:
            losses.checked(self.loss)
        checked_flag("rescale", self.rescale)

    def run(self, problem: Problem) -> Tensor:
        """The best point of all restarts, per image."""
        best = Best(problem)
        canvas = Canvas.of(problem.images, problem.threat)
        rows = torch.arange(len(problem), device=problem.images.device)
        for restart in range(self.restarts if canvas.tall else 0):
            left = self._search(problem, canvas, best, rows, (self.queries + restart) // self.restarts)
            problem, rows = problem.select(torch.isin(rows, left)), left
        return best.points

    def _search(self, problem: Problem, canvas: Canvas, best: Best, rows: Tensor, queries: int) -> Tensor:
        """One search of `queries` forward passes; returns the rows (M,) still unsolved."""
        loss = self.loss or ("cross_entropy" if isinstance(problem.goal, Targeted) else "margin")
        first, later = (_stripes, _repainted) if problem.threat.norm == "linf" else (_tiles, _moved)
        points, numbers = problem.images, problem.images
        values = torch.full((len(rows),), -torch.inf, dtype=points.dtype, device=points.device)
        met = torch.zeros(len(rows), dtype=torch.bool, device=points.device)
        for query in range(queries):
            if len(rows) == 0:
                break
            if query % BLOCK == 0:
                numbers = problem.streams.uniform((BLOCK, 5 + canvas.channels), points)
            if query == 0:
                candidates = first(problem, canvas)
            else:
                total = queries if self.rescale else 10_000
                share = self.p_init / 2 ** sum(10_000 * query > at * total for at in HALVINGS)
                candidates = later(problem, canvas, points, numbers[:, query % BLOCK], share)
            logits = problem.logits(candidates)
            solved, found = problem.solved(logits), problem.loss_values(logits, loss).to(values.dtype)
            better = solved | (found > values)  # never for NaN
            points = candidates.where(per_image(better, points), points)
            values, met = found.where(better, values), problem.goal.is_met(logits).where(better, met)
            if bool(solved.any()):
                best.offer(rows[solved], points[solved], met[solved], values[solved])
                keep = ~solved
                problem, rows, numbers = problem.select(keep), rows[keep], numbers[keep]
                points, values, met = points[keep], values[keep], met[keep]
        best.offer(rows, points, met, values)
        return rows


def _stripes(problem: Problem, canvas: Canvas) -> Tensor:
    """Every column of every channel at one end of its budget."""
    up = problem.streams.uniform((canvas.channels, 1, canvas.width), problem.images) < 0.5
    upper, lower = canvas.seen(problem.region.upper), canvas.seen(problem.region.lower)
    return upper.where(up, lower).view_as(problem.images)


def _repainted(problem: Problem, canvas: Canvas, points: Tensor, numbers: Tensor, share: float) -> Tensor:
    """A square at one end of its budget, one sign per channel; the opposite signs where nothing would change."""
    sides = canvas.sides(share)
    window = canvas.inside(canvas.place(numbers[:, :2], sides), sides)
    up = (numbers[:, 5:] < 0.5)[:, :, None, None]
    now, upper, lower = (canvas.seen(part) for part in (points, problem.region.upper, problem.region.lower))
    painted = upper.where(up, lower).where(window, now)
    idle = (painted == now).flatten(1).all(1)
    if bool(idle.any()):
        painted = upper.where(up ^ per_image(idle, up), lower).where(window, now)
    return painted.view_as(points)


def _tiles(problem: Problem, canvas: Canvas) -> Tensor:
    """A bump in each of five by five tiles, turned and signed at random."""
    side = max(1, min(canvas.tall, canvas.broad) // 5)
    down, across = canvas.tall // side, canvas.broad // side
    turned = problem.streams.uniform((1, down, across, 1, 1), problem.images) < 0.5
    signs = (problem.streams.uniform((canvas.channels, down, across, 1, 1), problem.images) < 0.5) * 2.0 - 1
    hill = bump(side, side, POWER[problem.threat.norm]).to(problem.images)
    tiles = (hill.mT.where(turned, hill) * signs).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    top = canvas.top + (canvas.tall - down * side) // 2
    left = canvas.left + (canvas.broad - across * side) // 2
    delta = torch.zeros_like(canvas.seen(problem.images))
    delta[:, :, top : top + down * side, left : left + across * side] = tiles
    return _spent(problem, delta)


def _moved(problem: Problem, canvas: Canvas, points: Tensor, numbers: Tensor, share: float) -> Tensor:
    """One window's budget moves into another, which gets a new bump on top of what it held."""
    power = POWER[problem.threat.norm]
    high, wide = canvas.sides(share, 3)
    sides = (min(high | 1, canvas.tall), min(wide | 1, canvas.broad))
    here, there = (canvas.indices(canvas.place(numbers[:, i : i + 2], sides), sides) for i in (0, 2))
    delta = canvas.seen(points - problem.images).flatten(2)
    old = delta.gather(2, here)
    emptied = delta.scatter(2, here, 0.0).scatter_(2, there, 0.0)
    total, kept = (part.abs().pow(power).sum(2, keepdim=True) for part in (delta, emptied))
    unspent = (problem.threat.eps**power - total.sum(1, keepdim=True)).clamp_min(0) / canvas.channels
    hill, turned = bump(*sides, power).to(points), bump(*sides[::-1], power).to(points).T
    signs = (numbers[:, 5:, None] < 0.5) * 2.0 - 1
    fresh = hill.flatten().where(numbers[:, 4, None] < 0.5, turned.flatten())[:, None] * signs
    fresh = _unit(fresh + _unit(old, power), power) * ((total - kept).clamp_min(0) + unspent) ** (1 / power)
    return _spent(problem, emptied.scatter_(2, here, fresh))


def _spent(problem: Problem, delta: Tensor) -> Tensor:
    """The image plus `delta`, scaled so that the whole budget is spent."""
    delta = delta.reshape(problem.images.shape)
    if problem.threat.norm == "l2":
        moved = problem.images + problem.region.steepest_step(delta)
        return torch.clamp(moved, problem.region.lower, problem.region.upper)
    scale = problem.threat.eps / delta.flatten(1).abs().sum(1).clamp_min(1e-12)
    return problem.region.project(problem.images + delta * per_image(scale.clamp_min(1), delta))


def _unit(rows: Tensor, power: int) -> Tensor:
    size = rows.abs().pow(power).sum(2, keepdim=True) ** (1 / power)
    return rows / size.clamp_min(1e-12)
