"""Jacobian-based saliency map attack (Papernot et al. 2016, arXiv:1511.07528; Wiyatno & Xu 2018, arXiv:1808.07945)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack, at_least, checked_choice
from sparring.attacks.ddn import log_odds
from sparring.errors import InputError
from sparring.goal import Goal, Targeted
from sparring.problem import Problem

RULES = ("maximal", "pairs")


@dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """Changes the two features that promise most, by `theta` each, and looks again, until the goal is met.

    rule "maximal" (after Wiyatno & Xu): up or down, whichever promises more; a feature promises the slope of the
    target's log-odds times the way it can still go, and never turns back. rule "pairs" is the paper's: of all pairs
    whose slopes α of the target's logit and β of the sum of the others' have α > 0 > β, the one with the largest -α·β;
    all up, or with a negative theta all down. It costs two gradients per step, not one, and changes more features.

    theta: change in units of the box, from -1 to 1 (the paper's 1: to the end). gamma: share of an image's features
    that may change, where the threat's eps does not say less (the paper's 0.145 on MNIST; 1: eps alone decides).
    An untargeted goal takes the class that leads the others at the time for its target. Which features may change at
    all is said by the threat's mask.
    """

    threats: ClassVar[tuple[str, ...]] = ("l0",)
    paper: ClassVar[str] = "Papernot et al., The Limitations of Deep Learning in Adversarial Settings, EuroS&P 2016"

    theta: float = 1.0
    gamma: float = 1.0
    rule: str = "maximal"

    def __post_init__(self) -> None:
        checked_choice("rule", self.rule, RULES)
        at_least("gamma", self.gamma, 0)
        lowest = -1.0 if self.rule == "pairs" else 0.0
        number = isinstance(self.theta, (int, float)) and not isinstance(self.theta, bool)
        if not number or not lowest <= self.theta <= 1 or self.theta == 0:
            raise InputError(
                f"theta must be a number from {lowest:g} to 1 and not 0, got {self.theta!r} (rule {self.rule!r})"
            )
        if self.gamma > 1:
            raise InputError(f"gamma must be a share of the features, 0 to 1, got {self.gamma!r}")

    def run(self, problem: Problem) -> Tensor:
        """The image at the first success; without one, at the smallest margin on the way."""
        best = Best(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        points, size = problem.images, problem.images[0].numel() if len(rows) else 0
        limit = math.floor(min(problem.threat.eps, self.gamma * size) + 1e-9)
        while len(rows):
            at = problem.gradient(points, log_odds if self.rule == "maximal" else _own)
            best.offer(rows, points, problem.goal.is_met(at.logits), problem.loss_values(at.logits, "margin"))
            change = self._change(problem, points, at.grad, limit)
            going = ~problem.solved(at.logits) & (change != 0).any(1)
            problem, rows = problem.select(going), rows[going]
            moved = points[going] + change[going].view_as(problem.images)
            points = torch.clamp(moved, problem.region.lower, problem.region.upper)
        return best.points

    def _change(self, problem: Problem, points: Tensor, grad: Tensor, limit: int) -> Tensor:
        """What the next step adds (N, D): two features, or none where nothing promises anything."""
        region, images = problem.region, problem.images
        low, high = problem.threat.bounds
        step = abs(self.theta) * (high - low)
        up = _room(region.upper - points, points >= images, step)
        down = _room(points - region.lower, points <= images, step)
        fresh = (points == images).flatten(1)
        left = limit - (~fresh).sum(1, keepdim=True)
        barred = fresh & (left <= 0)
        if self.rule == "maximal":
            slopes = grad.flatten(1)
            way = torch.where(slopes > 0, up, -down).masked_fill(barred, 0)
            chosen = _two_largest(slopes * way)
        else:
            way = (up if self.theta > 0 else -down).masked_fill(barred, 0)
            others = problem.gradient(points, _others).grad
            chosen = _best_pair(grad.flatten(1) * way.sign(), -others.flatten(1) * way.sign(), way != 0)
        second = chosen.cumsum(1) == 2
        chosen &= ~(second & (left == 1) & ((chosen & fresh).sum(1, keepdim=True) == 2))
        return way * chosen


def _room(way: Tensor, onward: Tensor, step: float) -> Tensor:
    """How far every feature (N, D) goes in one step; 0 where that would be back, or next to nothing."""
    way = way.clamp_max(step)
    return way.where(onward & (way > 1e-6 * step), torch.zeros_like(way)).flatten(1)


def _two_largest(gain: Tensor) -> Tensor:
    """Bool (N, D): the two largest positive entries of each row."""
    values, places = gain.topk(min(2, gain.shape[1]), dim=1)
    return torch.zeros_like(gain, dtype=torch.bool).scatter_(1, places, values > 0)


def _best_pair(alpha: Tensor, beta: Tensor, free: Tensor) -> Tensor:
    """Bool (N, D): the two `free` features whose sums of `alpha` and of `beta` are both positive and have the largest
    product; none where no pair is such.

    Both are among those that at most one other beats in alpha and beta alike: with two such rivals, one could take the
    feature's place. That leaves few, and all their pairs are tried.
    """
    alpha, beta = alpha.masked_fill(~free, -torch.inf), beta.masked_fill(~free, -torch.inf)
    first = _unbeaten(alpha, beta)
    second = _unbeaten(alpha, beta.masked_fill(first, -torch.inf))
    few = (first | second) & free
    count = max(2, int(few.sum(1).amax()))
    places = few.to(alpha.dtype).topk(min(count, few.shape[1]), dim=1).indices
    usable = few.gather(1, places)
    a, b = (values.gather(1, places).where(usable, torch.zeros_like(alpha[:, :1])) for values in (alpha, beta))
    alphas, betas = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
    pairs = usable[:, :, None] & usable[:, None] & (alphas > 0) & (betas > 0)
    pairs &= ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    best, place = (alphas * betas).where(pairs, torch.zeros_like(alphas)).flatten(1).max(1)
    both = places.gather(1, torch.stack([place // pairs.shape[1], place % pairs.shape[1]], 1))
    return torch.zeros_like(free).scatter_(1, both, (best > 0)[:, None].expand_as(both))


def _unbeaten(alpha: Tensor, beta: Tensor) -> Tensor:
    """Bool (N, D): no feature with a larger or equal alpha that comes before it has a larger or equal beta."""
    order = alpha.argsort(dim=1, descending=True, stable=True)
    ranked = beta.gather(1, order)
    before = torch.cat([torch.full_like(ranked[:, :1], -torch.inf), ranked.cummax(1).values[:, :-1]], 1)
    return torch.zeros_like(alpha, dtype=torch.bool).scatter_(1, order, ranked > before)


def _own(logits: Tensor, goal: Goal) -> Tensor:
    """Logit (N,) of the target; of an untargeted goal, that of the strongest class but the label."""
    if isinstance(goal, Targeted):
        return logits.gather(1, goal.targets[:, None]).squeeze(1)
    return logits.scatter(1, goal.reference[:, None], -torch.inf).amax(1)


def _others(logits: Tensor, goal: Goal) -> Tensor:
    """Sum (N,) of all other logits."""
    return logits.sum(1) - _own(logits, goal)
