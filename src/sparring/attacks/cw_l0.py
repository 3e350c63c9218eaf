"""Carlini & Wagner's l0 attack: an adversarial on few pixels, fewer by those that do least, again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.cw_core import Adam, Finds, movable, selected
from sparring.norms import per_image
from sparring.problem import Gradient, Problem

SHARE = 0.3
"""Of the changed pixels, how many are put back at a time; half as many after every failure."""
TRIES = 5
"""Where not even the pixel that does least can be put back: so many others are tried before the search is over."""


@dataclass(frozen=True, eq=False)
class Thinning:
    """Where every image is, which pixels it may still change, and the gradient (N, C, H, W) at its best point.

    `taken`: how many pixels were put back last; `share`: of those changed, how many will be next; `spared`: how many of
    those that do least are not among them, having been tried.
    """

    problem: Problem
    rows: Tensor
    points: Tensor
    adam: Adam
    allowed: Tensor
    slopes: Tensor
    share: Tensor
    taken: Tensor
    spared: Tensor
    idle: Tensor

    @classmethod
    def start(cls, problem: Problem, rows: Tensor) -> Thinning:
        """Every pixel may change."""
        images, region = problem.images, problem.region
        zero = images.new_zeros(len(images))
        adam = Adam.start(images, shared=False)
        allowed = region.upper > region.lower
        none = torch.zeros_like(images)
        return cls(problem, rows, images, adam, allowed, none, zero + SHARE, zero + torch.inf, zero, zero)

    def moved(self, grad: Tensor, rate: float) -> Thinning:
        """One step up the margin with the allowed pixels, inside the box."""
        region = self.problem.region
        adam = self.adam.after(movable(region, self.points, grad) * self.allowed)
        points = torch.clamp(self.points + rate * adam.direction(), region.lower, region.upper)
        return replace(self, adam=adam, points=points)

    def judged(self, at: Gradient, nearer: Tensor, ever: Tensor, patience: int) -> tuple[Thinning, Tensor, Tensor]:
        """Takes note of a success or, after `patience` steps without one, of a failure; which images (M,) turn to
        other pixels now, and which are done: no single pixel could be put back.
        """
        idle = self.idle + 1
        failed = ever & ~nearer & (idle >= patience)
        alone = failed & (self.taken <= 1)
        spared = (self.spared + alone).where(~nearer, torch.zeros_like(idle))
        done = alone & (spared > self.allowed.flatten(1).sum(1).clamp_max(TRIES - 1))
        slopes = torch.where(per_image(nearer, at.grad), at.grad, self.slopes)
        share = torch.where(failed, self.share / 2, self.share)
        return replace(self, slopes=slopes, share=share, spared=spared, idle=idle), nearer | failed, done

    def thinned(self, turned: Tensor, best: Tensor) -> Thinning:
        """Where the search has `turned`: the best point without the pixels that do least, by what they have changed so
        far and could change in all, times the gradient there.
        """
        region, images = self.problem.region, self.problem.images
        delta = best - images
        whole = torch.where(delta > 0, region.upper, region.lower) - images
        changed = (delta != 0).flatten(1)
        worth = ((delta + whole) * self.slopes).flatten(1).masked_fill(~changed, torch.inf)
        taken = (self.share * changed.sum(1)).floor().clamp_min(1)
        rank = worth.argsort(dim=1, stable=True).argsort(dim=1) - self.spared[:, None]
        kept = (changed & ((rank < 0) | (rank >= taken[:, None]))).view_as(best)
        choose = per_image(turned, best)
        return replace(
            self,
            points=torch.where(choose, images + delta * kept, self.points),
            adam=self.adam.where(~turned),
            allowed=torch.where(choose, kept, self.allowed),
            taken=taken.where(turned, self.taken),
            idle=self.idle * ~turned,
        )


def search(problem: Problem, finds: Finds, enough: float, *, steps: int, patience: int, rate: float) -> None:
    """At most `steps` gradients per image; `patience` of them without success, and fewer pixels are put back."""
    run = Thinning.start(problem, torch.arange(len(problem), device=problem.images.device))
    for _ in range(steps):
        at = run.problem.gradient(run.points, "margin")
        before = finds.sure.distance[run.rows]
        finds.offer(run.problem, run.rows, run.points, at.logits)
        distance = finds.sure.distance[run.rows]
        run, turned, done = run.judged(at, distance < before, distance.isfinite(), patience)
        run = run.moved(at.grad, rate)
        if bool(turned.any()):
            run = run.thinned(turned, finds.sure.points[run.rows])
        staying = (distance > enough) & ~done
        if not bool(staying.all()):
            run = selected(run, staying)
            if not len(run.rows):
                return
