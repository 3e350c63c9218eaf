"""Elastic-net attack (Chen et al. 2018, arXiv:1709.04114)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least, checked_choice
from sparring.attacks.cw_core import movable, selected
from sparring.attacks.minimal import MinimalAttack, Nearest, length
from sparring.norms import per_image
from sparring.problem import Gradient, Problem

RULES = ("L1", "EN")
GROWTH, FALL, SLOWER = 4.0, 2.0, 0.5


@dataclass(frozen=True, kw_only=True)
class EAD(MinimalAttack):
    """Carlini & Wagner's trade between margin and distance, with the distance β·‖δ‖₁ + ‖δ‖² in place of ‖δ‖²:
    proximal gradient steps with momentum (FISTA), each followed by shrinking every pixel's change towards 0.

    steps: gradients for one weight c of the margin. search_steps: values of c. The first is the one at which, in a
    linear model, just enough pixels would move (the paper's fixed start depends on the scale of the logits).
    learning_rate: what the first step shrinks off, in units of the box; it falls to 0 with the square root of the steps
    left, as in the paper, and starts at half for the next c once the image is fooled.
    beta: weight of the l1 norm (the paper's 0.001, applied per step of 0.01, amounts to 0.1; more is nearer in l1).
    rule: of all adversarials on the way keep the one nearest in l1 ("L1") or in β·‖δ‖₁ + ‖δ‖² ("EN").
    """

    threats: ClassVar[tuple[str, ...]] = ("l1",)
    paper: ClassVar[str] = (
        "Chen et al., EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial Examples, AAAI 2018"
    )

    steps: int = 100
    search_steps: int = 5
    learning_rate: float = 0.1
    beta: float = 10.0
    rule: str = "L1"

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1, whole=True)
        at_least("search_steps", self.search_steps, 1, whole=True)
        at_least("learning_rate", self.learning_rate, 0)
        checked_choice("rule", self.rule, RULES)
        at_least("beta", self.beta, 1e-9)

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The adversarial that the rule prefers, drawn in towards the image."""
        best, least = Nearest(problem), Least(problem)
        low, high = problem.threat.bounds
        spread, rate = self.beta * (high - low), self.learning_rate * (high - low)
        at = problem.gradient(problem.images, "margin")
        run = Descent.start(problem, at, rate)
        for step in range(self.steps * self.search_steps):
            if step:
                at = run.problem.gradient(run.points, "margin")
            met = run.problem.solved(at.logits)
            best.offer(run.rows, run.points, met)
            least.offer(run.rows, run.points, met, run.cost(spread))
            age = step % self.steps
            run = run.moved(at, met, spread, (1 - age / self.steps) ** 0.5, age / (age + 3))
            distance = best.distance[run.rows]
            if age + 1 == self.steps:
                run = run.renewed(best.points[run.rows], distance.isfinite())
            if bool((distance <= enough).any()):
                run = selected(run, distance > enough)
                if not len(run.rows):
                    break
        if self.rule == "EN":
            beyond = best.found & (best.distance > enough)
            best.points[beyond] = least.points[beyond]
            best.distance[beyond] = length(least.points - problem.images, "l1")[beyond]
        best.draw_in(problem, 4, enough)
        return best.points


class Least:
    """The adversarial of the least cost per image."""

    def __init__(self, problem: Problem) -> None:
        self.points = problem.images.clone()
        self._cost = torch.full((len(problem),), torch.inf, dtype=self.points.dtype, device=self.points.device)

    def offer(self, rows: Tensor, points: Tensor, met: Tensor, cost: Tensor) -> None:
        """Take over the offered points (M, C, H, W) that are `met` (M,) and cost less."""
        better = met & (cost < self._cost[rows])
        self.points[rows[better]] = points[better]
        self._cost[rows[better]] = cost[better]


@dataclass(frozen=True, eq=False)
class Descent:
    """Where every image is. `points` are where gradients are taken and adversarials looked for: `last`, the result of
    the last shrinking, extrapolated and clipped to the box. `weight`: c·`slope` / β, with `slope` (M,) the steepest
    that the image began with.
    """

    problem: Problem
    rows: Tensor
    points: Tensor
    last: Tensor
    slope: Tensor
    weight: Tensor
    low: Tensor
    high: Tensor
    rate: Tensor
    found: Tensor

    @classmethod
    def start(cls, problem: Problem, first: Gradient, rate: float) -> Descent:
        """At the images, with the weight of a linear model."""
        region, images = problem.region, problem.images
        uphill = movable(region, images, first.grad)
        room = torch.where(uphill > 0, region.upper - images, images - region.lower).flatten(1)
        steepness, order = uphill.flatten(1).abs().sort(dim=1, descending=True)
        gained = (steepness * room.gather(1, order)).cumsum(1)
        needed = (gained < problem.shortfalls(first.logits)[:, None]).sum(1, keepdim=True)
        last = steepness.gather(1, needed.clamp_max(room.shape[1] - 1)).squeeze(1)
        slope = steepness[:, 0].clamp_min(1e-20)
        weight = slope / last.maximum(1e-3 * slope)
        zero = torch.zeros_like(slope)
        rows = torch.arange(len(problem), device=images.device)
        return cls(problem, rows, images, images, slope, weight, zero, zero + torch.inf, zero + rate, zero > 0)

    def cost(self, spread: float) -> Tensor:
        """‖δ‖₁ + ‖δ‖² / spread of the points (N,)."""
        delta = self.points - self.problem.images
        return length(delta, "l1") + length(delta, "l2").square() / spread

    def moved(self, at: Gradient, met: Tensor, spread: float, pace: float, momentum: float) -> Descent:
        """One proximal step and its extrapolation; where `met`, the margin pulls no more."""
        region, images = self.problem.region, self.problem.images
        size = per_image(pace * self.rate, images)
        delta = self.points - images
        pull = at.grad / per_image(self.slope, images) * per_image(self.weight * ~met, images)
        delta = delta + size * (pull - 2 * delta / spread)
        shrunk = delta.sign() * (delta.abs() - size).clamp_min(0)
        last = torch.clamp(images + shrunk, region.lower, region.upper)
        points = torch.clamp(last + momentum * (last - self.last), region.lower, region.upper)
        return replace(self, points=points, last=last, found=self.found | met)

    def renewed(self, best: Tensor, ever: Tensor) -> Descent:
        """The next weight: from the best point and with smaller steps where there is one (`ever`), else from here."""
        high = self.weight.where(self.found, self.high)
        low = self.weight.where(~self.found, self.low)
        weight = torch.where(low > 0, (low * high).sqrt(), high / FALL).where(high.isfinite(), self.weight * GROWTH)
        last = torch.where(per_image(ever, best), best, self.last)
        rate = (SLOWER * self.rate).where(ever, self.rate)
        none = torch.zeros_like(self.found)
        return replace(self, points=last, last=last, weight=weight, low=low, high=high, rate=rate, found=none)
