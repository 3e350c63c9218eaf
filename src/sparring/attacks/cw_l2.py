"""Carlini & Wagner's l2 attack: a search for the weight c between distance and margin, a descent for every c."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.cw_core import Adam, Finds, movable, selected
from sparring.attacks.minimal import dual_length, length
from sparring.norms import per_image
from sparring.problem import Gradient, Problem

GROWTH, FALL = 4.0, 1.5
"""What c is multiplied by until it suffices, and divided by as long as all do; in between, the geometric mean."""


@dataclass(frozen=True, eq=False)
class Descent:
    """Where every image is. c is `weight` times what a linear model would need: 2·reach / slope, with `slope` (M,) the
    norm of the first gradient and `reach` (M,) the distance to the boundary that it promises.
    """

    problem: Problem
    rows: Tensor
    points: Tensor
    adam: Adam
    slope: Tensor
    reach: Tensor
    weight: Tensor
    low: Tensor
    high: Tensor
    rate: Tensor
    round: Tensor
    found: Tensor
    lowest: Tensor
    idle: Tensor

    @classmethod
    def start(cls, problem: Problem, rows: Tensor, first: Gradient, confidence: float, rate: float) -> Descent:
        """At the images, with the first gradient at hand; `rate` is the largest learning rate, in image units."""
        region, images = problem.region, problem.images
        free = (region.upper > region.lower).flatten(1).sum(1).clamp_min(1).to(images.dtype).sqrt()
        slope = dual_length(movable(region, images, first.grad), "l2").clamp_min(1e-20)
        promised = (problem.shortfalls(first.logits) + confidence).clamp_min(0) / slope
        reach = promised.nan_to_num(nan=rate).clamp_max(100 * rate * free)
        zero, far = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
        return cls(
            problem,
            rows,
            images,
            Adam.start(images, shared=True),
            slope,
            reach.maximum(0.01 * rate * free),
            weight=zero + 2,
            low=zero,
            high=far,
            rate=(reach / 4 / free).clamp(0.01 * rate, rate),
            round=zero,
            found=zero > 0,
            lowest=far,
            idle=zero,
        )

    def moved(self, at: Gradient, met: Tensor) -> Descent:
        """One step down ‖delta‖² + c·max(0, confidence - margin); where `met`, the second part is 0."""
        problem, delta = self.problem, self.points - self.problem.images
        pull = at.grad / per_image(self.slope, at.grad) * per_image(2 * self.weight * self.reach * ~met, at.grad)
        adam = self.adam.after(movable(problem.region, self.points, pull - 2 * delta))
        points = self.points + adam.direction() * per_image(self.rate, delta)
        return replace(self, adam=adam, points=torch.clamp(points, problem.region.lower, problem.region.upper))

    def judged(self, at: Gradient, met: Tensor, confidence: float) -> Descent:
        """What the descent has come to: whether it ever met the goal, and for how many steps nothing has improved."""
        lack = (self.problem.shortfalls(at.logits) + confidence).clamp_min(0) / self.slope
        squared = length(self.points - self.problem.images, "l2").square()
        value = squared + 2 * self.weight * self.reach * lack.where(~met, torch.zeros_like(lack))
        better = value < self.lowest * (1 - 1e-3)
        lowest = value.where(better, self.lowest)
        return replace(self, found=self.found | met, lowest=lowest, idle=(self.idle + 1).where(~better, 0 * self.idle))

    def renewed(self, ended: Tensor, best: Tensor, ever: Tensor, rate: float) -> Descent:
        """Where the descent has `ended`: the next c, from the best point if there is one, else from where it is.

        Without a find the steps grow as well as c; with one they shrink, to look more closely.
        """
        high = self.weight.where(self.found, self.high)
        low = self.weight.where(~self.found, self.low)
        weight = torch.where(low > 0, (low * high).sqrt(), high / FALL).where(high.isfinite(), self.weight * GROWTH)
        pace = torch.where(self.found, 0.6 * self.rate, (2 * self.rate).clamp_max(rate))
        return replace(
            self,
            points=torch.where(per_image(ended & ever, best), best, self.points),
            adam=self.adam.where(~ended),
            weight=weight.where(ended, self.weight),
            low=low.where(ended, self.low),
            high=high.where(ended, self.high),
            rate=pace.where(ended, self.rate),
            round=self.round + ended,
            found=self.found & ~ended,
            lowest=self.lowest.masked_fill(ended, torch.inf),
            idle=self.idle * ~ended,
        )


def search(problem: Problem, finds: Finds, enough: float, *, steps: int, rounds: int, rate: float) -> None:
    """`rounds` descents of at most `steps` gradients per image; one that stalls ends early."""
    rows = torch.arange(len(problem), device=problem.images.device)
    at = problem.gradient(problem.images, "margin")
    run = Descent.start(problem, rows, at, finds.confidence, rate)
    patience = max(10, steps // 5)
    while True:
        met = finds.offer(run.problem, run.rows, run.points, at.logits)
        run = run.judged(at, met, finds.confidence).moved(at, met)
        distance = finds.sure.distance[run.rows]
        ended = (run.adam.age >= steps) | (run.idle >= patience)
        if bool(ended.any()):
            run = run.renewed(ended, finds.sure.points[run.rows], distance.isfinite(), rate)
        staying = (run.round < rounds) & (distance > enough)
        if not bool(staying.all()):
            run = selected(run, staying)
            if not len(run.rows):
                return
        at = run.problem.gradient(run.points, "margin")
