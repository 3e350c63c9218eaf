"""Auto-PGD (Croce & Hein 2020, arXiv:2003.01690), with its form for l1 (Croce & Hein 2021, arXiv:2103.01208)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import TOGETHER, Best, side_by_side
from sparring.attacks.base import Attack, at_least, checked_flag
from sparring.goal import Targeted
from sparring.losses import Loss
from sparring.norms import per_image
from sparring.problem import Gradient, Problem
from sparring.threat import Region

MOMENTUM = 0.75
"""Weight of the new step against the one before (alpha in the paper)."""
L1_STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))
"""l1 begins in a wider ball: multiples of eps, and the share of the steps spent in each."""
L1_SHARE = 0.2
"""Share of the coordinates that an l1 step moves at first."""


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """PGD with momentum that needs no step size: each image's steps halve once they stop paying, and the image is set
    back to its best point.

    z = P(x + size·direction), then P(x + ¾(z - x) + ¼(x - x_before)); sizes begin at 2·eps. At checkpoints (after 22 %
    of the steps, then ever sooner) an image's size halves where fewer than `rho` of the steps since the last checkpoint
    raised its loss, or where neither its best loss nor its size has changed since. l1: steps along as many coordinates
    as the best point suggests, without momentum, in 3, then 2, then 1 times the budget.

    steps: gradients per run. restarts: independent random starts; only unsolved images start again. targets: runs per
    image, one towards each of its strongest wrong classes; loss="dlr" with targets=9 is the paper's APGD-T. 0 leaves
    the class open, and so does a targeted goal, which has only one. loss: "cross_entropy", "dlr", "margin" or a
    function. early_stop: solved images leave at once.
    """

    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    paper: ClassVar[str] = "Croce & Hein, Reliable Evaluation of Adversarial Robustness (AutoAttack), ICML 2020"

    steps: int = 100
    restarts: int = 1
    loss: str | Loss = "cross_entropy"
    targets: int = 0
    rho: float = 0.75
    early_stop: bool = True

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("steps", self.steps, 1, whole=True)
        at_least("restarts", self.restarts, 1, whole=True)
        at_least("targets", self.targets, 0, whole=True)
        at_least("rho", self.rho, 0)
        checked_flag("early_stop", self.early_stop)

    def run(self, problem: Problem) -> Tensor:
        """The best iterate of all runs, per image."""
        best, rows = Best(problem), torch.arange(len(problem), device=problem.images.device)
        classes = _strongest_wrong(problem, self.targets)
        for start in range(0, max(1, classes.shape[1]), TOGETHER):
            for _ in range(self.restarts):
                aims = classes[rows, start : start + TOGETHER]
                if aims.shape[1]:
                    unsolved, _values = side_by_side(problem, rows, best, aims, self._towards)
                else:
                    unsolved = torch.isin(rows, self._climb(problem, rows, best))
                if self.early_stop:
                    problem, rows = problem.select(unsolved), rows[unsolved]
                if len(rows) == 0:
                    return best.points
        return best.points

    def _towards(self, problem: Problem, best: Best) -> Tensor:
        return self._climb(problem, torch.arange(len(problem), device=problem.images.device), best)

    def _climb(self, problem: Problem, rows: Tensor, best: Best) -> Tensor:
        """One run from a random start; returns the rows (M,) still unsolved."""
        eps, points, fresh = problem.region.eps, _start(problem), True
        for reach, steps in _stages(problem.region.norm, self.steps):
            problem = replace(problem, region=replace(problem.region, eps=reach * eps))
            track = _Track.begin(problem.region, points, fresh=fresh)
            checks = _checkpoints(problem.region.norm, steps)
            for step in range(steps):
                at = problem.gradient(track.points, self.loss)
                track.note(at)
                if reach == 1:
                    best.offer(rows, track.points, problem.goal.is_met(at.logits), at.values)
                    solved = problem.solved(at.logits) if self.early_stop else None
                    if solved is not None and bool(solved.any()):
                        problem, track, rows = problem.select(~solved), track.select(~solved), rows[~solved]
                        if len(rows) == 0:
                            return rows
                if step in checks:
                    track.review(problem.region, self.rho * checks[step])
                track.advance(problem.region, momentum=step > 0)
            points, fresh = track.top_points, False
        logits = problem.logits(track.points)
        best.offer(rows, track.points, problem.goal.is_met(logits), problem.loss_values(logits, self.loss))
        return rows[~problem.solved(logits)]


@dataclass
class _Track:
    """Where M images are in a run, the best point of each, and what the next checkpoint will look at."""

    points: Tensor
    before: Tensor
    grad: Tensor
    value: Tensor
    top_points: Tensor
    top_grad: Tensor
    top: Tensor
    size: Tensor
    share: Tensor
    mark: Tensor
    rises: Tensor
    halved: Tensor

    @classmethod
    def begin(cls, region: Region, points: Tensor, *, fresh: bool) -> _Track:
        """At `points`; `fresh` where no stage of the run went before."""
        points, sparse = region.project(points), region.norm == "l1"
        one = torch.ones(len(points), dtype=points.dtype, device=points.device)
        share = _share_changed(region, points)
        return cls(
            points=points,
            before=points,
            grad=torch.zeros_like(points),
            value=one * torch.inf,
            top_points=points,
            top_grad=torch.zeros_like(points),
            top=-one * torch.inf,
            size=one * region.eps * (1 if sparse else 2),
            share=one * L1_SHARE if fresh else share / 1.5,
            mark=(one if fresh else share) if sparse else -one * torch.inf,
            rises=0 * one,
            halved=one > 0,
        )

    def select(self, keep: Tensor) -> _Track:
        """The images where `keep` is true."""
        return _Track(*(getattr(self, field.name)[keep] for field in fields(self)))

    def note(self, at: Gradient) -> None:
        """Loss and gradient at `points`; NaN is never better."""
        higher = at.values > self.top
        chosen = per_image(higher, self.points)
        self.top_points = torch.where(chosen, self.points, self.top_points)
        self.top_grad = torch.where(chosen, at.grad, self.top_grad)
        self.top = torch.where(higher, at.values, self.top)
        self.rises = self.rises + (at.values > self.value)
        self.grad, self.value = at.grad, at.values

    def review(self, region: Region, needed: float) -> None:
        """A checkpoint: shorten the steps of some images, and set those back to their best point."""
        if region.norm == "l1":
            share = _share_changed(region, self.top_points)
            back = share < 0.95 * self.mark
            self.size = torch.where(back, region.eps, (self.size / 1.5).clamp_min(region.eps / 10))
            self.share, self.mark = share / 1.5, share
        else:
            back = (self.rises <= needed) | (~self.halved & (self.top <= self.mark))
            self.size = torch.where(back, self.size / 2, self.size)
            self.halved, self.mark, self.rises = back, self.top, torch.zeros_like(self.rises)
        chosen = per_image(back, self.points)
        self.points = torch.where(chosen, self.top_points, self.points)
        self.grad = torch.where(chosen, self.top_grad, self.grad)
        self.value = torch.where(back, self.top, self.value)

    def advance(self, region: Region, *, momentum: bool) -> None:
        """One step; `momentum` keeps a quarter of the last one."""
        target = region.advance(self.points, self.grad, self.size, self.share)
        if momentum and region.norm != "l1":
            inertia = (1 - MOMENTUM) * (self.points - self.before)
            target = region.project(torch.lerp(self.points, target, MOMENTUM) + inertia)
        self.before, self.points = self.points, target


def _start(problem: Problem) -> Tensor:
    """A random point. For l1 one that changes few coordinates, as uniform draws from its ball do not."""
    if problem.region.norm != "l1":
        return problem.region.sample(problem.streams)
    noise = problem.streams.normal(problem.images.shape[1:], problem.images)
    low, high = problem.threat.bounds
    return problem.images + (high - low) * noise


def _stages(norm: str, steps: int) -> list[tuple[int, int]]:
    """Budget in multiples of eps, and steps in it."""
    if norm != "l1":
        return [(1, steps)]
    first = [(reach, int(part * steps)) for reach, part in L1_STAGES[:-1]]
    return [(reach, n) for reach, n in [*first, (1, steps - sum(n for _, n in first))] if n]


def _checkpoints(norm: str, steps: int) -> dict[int, int]:
    """Step to the number of steps since the checkpoint before it."""
    if norm == "l1":
        every = max(1, int(0.04 * steps))
        return dict.fromkeys(range(every, steps, every), every)
    places, place, period = [0], 0.22, 0.22
    while place < 1:
        places.append(math.ceil(place * steps - 1e-9))
        period = max(period - 0.03, 0.06)
        place += period
    return {at: at - before for before, at in pairwise(places) if at > before}


def _strongest_wrong(problem: Problem, count: int) -> Tensor:
    """The `count` wrong classes (N, count) with the largest logits at the images; none for a targeted goal."""
    if count == 0 or isinstance(problem.goal, Targeted):
        return torch.empty((len(problem), 0), dtype=torch.int64, device=problem.images.device)
    logits = problem.logits(problem.images)
    if count > logits.shape[1] - 1:
        note = f"targets={count}, but the model has {logits.shape[1] - 1} wrong classes: all of them were tried"
        problem.ledger.notes[note] = None
    wrong = logits.scatter(1, problem.goal.reference[:, None], -torch.inf)
    return wrong.argsort(1, descending=True)[:, : min(count, logits.shape[1] - 1)]


def _share_changed(region: Region, points: Tensor) -> Tensor:
    return (points != region.originals).flatten(1).to(points.dtype).mean(1)
