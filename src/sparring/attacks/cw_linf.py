"""Carlini & Wagner's linf attack: the margin inside a cube that is drawn in whenever the image is fooled within it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.cw_core import Adam, Finds, movable, selected
from sparring.attacks.minimal import dual_length
from sparring.norms import per_image
from sparring.problem import Gradient, Problem

DRAWN_IN, WIDENED, SLOWER = 0.97, 1.5, 0.8
PRECISION = 0.002
"""A cube within this share of the nearest adversarial that holds none: there is nothing left to gain."""


@dataclass(frozen=True, eq=False)
class Cube:
    """Where every image is, the half-width of its cube, and the number of steps since its nearest adversarial."""

    problem: Problem
    rows: Tensor
    points: Tensor
    adam: Adam
    width: Tensor
    rate: Tensor
    idle: Tensor

    @classmethod
    def start(cls, problem: Problem, rows: Tensor, first: Gradient, confidence: float, rate: float) -> Cube:
        """A cube that reaches the boundary of a linear model; steps of a quarter of that, `rate` at most."""
        slope = dual_length(movable(problem.region, problem.images, first.grad), "linf")
        width = ((problem.shortfalls(first.logits) + confidence) / slope).nan_to_num(nan=rate)
        width = width.clamp(0.01 * rate, 25 * rate)
        adam = Adam.start(problem.images, shared=False)
        return cls(problem, rows, problem.images, adam, width, (width / 4).clamp_max(rate), torch.zeros_like(width))

    def moved(self, grad: Tensor) -> Cube:
        """One step up the margin, clipped to cube and box."""
        region, images = self.problem.region, self.problem.images
        adam = self.adam.after(movable(region, self.points, grad))
        width = per_image(self.width, grad)
        delta = self.points - images + adam.direction() * per_image(self.rate, grad)
        delta = torch.minimum(torch.maximum(delta, -width), width)
        return replace(self, adam=adam, points=torch.clamp(images + delta, region.lower, region.upper))

    def adjusted(self, nearer: Tensor, best: Tensor, distance: Tensor, patience: int, rate: float) -> Cube:
        """The cube drawn in where the last point was `nearer` than all before. Where patience has run out: half-way
        back out and slower, from the best point; wider and faster while there is none.
        """
        ever = distance.isfinite()
        width = torch.minimum(self.width, DRAWN_IN * distance).where(nearer, self.width)
        idle = (self.idle + 1).where(~nearer, torch.zeros_like(self.idle))
        tired = idle >= patience
        back = tired & ever
        width = torch.where(tired, ((width + distance) / 2).where(ever, width * WIDENED), width)
        pace = torch.where(ever, self.rate * SLOWER, (self.rate * WIDENED).clamp_max(rate))
        return replace(
            self,
            points=torch.where(per_image(back, best), best, self.points),
            adam=self.adam.where(~back),
            width=width,
            rate=pace.where(tired, self.rate),
            idle=idle.where(~tired, torch.zeros_like(idle)),
        )


def search(problem: Problem, finds: Finds, enough: float, *, steps: int, patience: int, rate: float) -> None:
    """At most `steps` gradients per image; `patience` of them without progress change the cube."""
    rows = torch.arange(len(problem), device=problem.images.device)
    at = problem.gradient(problem.images, "margin")
    run = Cube.start(problem, rows, at, finds.confidence, rate)
    for step in range(steps):
        before = finds.sure.distance[run.rows]
        finds.offer(run.problem, run.rows, run.points, at.logits)
        distance = finds.sure.distance[run.rows]
        run = run.moved(at.grad).adjusted(distance < before, finds.sure.points[run.rows], distance, patience, rate)
        staying = (distance > enough) & ~(distance.isfinite() & (run.width > (1 - PRECISION) * distance))
        if not bool(staying.all()):
            run = selected(run, staying)
        if not len(run.rows) or step + 1 == steps:
            break
        at = run.problem.gradient(run.points, "margin")
