"""HopSkipJump (Chen, Jordan & Wainwright 2020, arXiv:1904.02144): gradients of the boundary, from labels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.attacks.decisions import DecisionAttack, Judge, wide
from sparring.problem import Problem

MEMORY = 2**22
"""Numbers held at once for the draws of a gradient estimate."""
HALVINGS = 12
"""How often a step is halved before it is given up."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(DecisionAttack):
    """From a point on the boundary, estimates the boundary's normal, jumps along it, and bisects back to the boundary.

    The normal is the mean of random directions, each counted for or against by the label one small step that way.
    queries: labels asked per image, at most (the paper shows 1,000, 5,000 and 20,000). samples: directions in the first
    estimate; the t-th takes sqrt(t) times as many (100 in the paper). In linf the jump follows the signs.
    """

    threats: ClassVar[tuple[str, ...]] = ("l2", "linf")
    paper: ClassVar[str] = "Chen et al., HopSkipJumpAttack: A Query-Efficient Decision-Based Attack, IEEE S&P 2020"

    samples: int = 100

    def __post_init__(self) -> None:
        DecisionAttack.__post_init__(self)
        at_least("samples", self.samples, 1, whole=True)

    def walk(self, judge: Judge, points: Tensor, enough: float) -> None:
        """Estimate, jump, bisect, until the queries are spent."""
        problem, nearest = judge.problem, judge.nearest
        size = problem.images[0].numel()
        precision = PREC / size**1.5 if PREC > 0 else -PREC
        rows = _going(judge, enough)
        points = points.clone()
        points[rows] = judge.approach(rows, points[rows], enough, precision)
        step = 0
        while len(rows := _going(judge, enough)) > 0:
            step += 1
            here, distance = points[rows], judge.distance(rows, points[rows])
            spread = distance * (DELTA / size if DELTA > 0 else -DELTA)
            if step == 1:
                spread = torch.full_like(spread, 0.1 * (problem.threat.bounds[1] - problem.threat.bounds[0]))
            draws = int(self.samples * math.sqrt(step))
            normal = _normal(judge, rows, here, spread, draws)
            if problem.threat.norm == "linf":
                normal = normal.sign()
            points[rows] = self._jump(judge, rows, here, normal, distance / math.sqrt(step))
            rows = rows[judge.left[rows] > 0]
            points[rows] = judge.approach(rows, points[rows], enough, precision)

    def _jump(self, judge: Judge, rows: Tensor, here: Tensor, normal: Tensor, length: Tensor) -> Tensor:
        """The first adversarial on halved steps along `normal`; `here` where there is none."""
        there = here.clone()
        open_ = torch.arange(len(rows), device=rows.device)
        for _ in range(HALVINGS):
            open_ = open_[judge.left[rows[open_]] > 0]
            if len(open_) == 0:
                break
            tried = judge.clipped(rows[open_], here[open_] + wide(length[open_], here) * normal[open_])
            met = judge.met(rows[open_], tried)
            there[open_[met]] = tried[met]
            open_, length = open_[~met], length / 2
        return there


def _going(judge: Judge, enough: float) -> Tensor:
    far = judge.nearest.distance
    return (far.isfinite() & (far > enough) & (judge.left > 0)).nonzero().flatten()


def _normal(judge: Judge, rows: Tensor, here: Tensor, spread: Tensor, draws: int) -> Tensor:
    parts = max(1, MEMORY // (draws * here[0].numel()))
    return torch.cat(
        [
            _estimate(judge, *part, draws)
            for part in zip(rows.split(parts), here.split(parts), spread.split(parts), strict=True)
        ]
    )


def _estimate(judge: Judge, rows: Tensor, here: Tensor, spread: Tensor, draws: int) -> Tensor:
    """The unit normal of the boundary near `here` (M, C, H, W), pointing to the adversarial side.

    Every direction counts +1 or -1, less their mean over the image's directions (the paper's variance reduction).
    """
    problem = judge.problem
    chosen = torch.zeros(len(problem), dtype=torch.bool, device=rows.device)
    chosen[rows] = True
    streams = problem.streams.select(chosen)
    shape = (draws, *here.shape[1:])
    directions = streams.normal(shape, here) if problem.threat.norm == "l2" else 2 * streams.uniform(shape, here) - 1
    movable = problem.region.upper[rows] > problem.region.lower[rows]
    directions = directions * movable[:, None]
    length = directions.flatten(2).square().sum(2).sqrt().clamp_min(1e-12)
    reach = spread.view(-1, *[1] * here.dim())
    directions = directions / length.view(*length.shape, *[1] * (here.dim() - 1))
    region = problem.region
    tried = torch.clamp(here[:, None] + reach * directions, region.lower[rows, None], region.upper[rows, None])
    moved = (tried - here[:, None]) / reach.clamp_min(1e-12)
    asked = torch.arange(draws, device=rows.device) < judge.left[rows, None]
    owners = rows[:, None].expand_as(asked)
    votes = torch.zeros(asked.shape, dtype=here.dtype, device=here.device)
    votes[asked] = judge.met(owners[asked], tried[asked]).to(here.dtype) * 2 - 1
    mean = votes.sum(1, keepdim=True) / asked.sum(1, keepdim=True)
    weights = torch.where(mean.abs() == 1, votes, votes - mean) * asked
    normal = (weights.view(*weights.shape, *[1] * (here.dim() - 1)) * moved).sum(1)
    return normal / wide(normal.flatten(1).square().sum(1).sqrt().clamp_min(1e-12), normal)


PREC, DELTA = 1.0, 1.0
