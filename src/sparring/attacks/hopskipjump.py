"""HopSkipJump (Chen, Jordan & Wainwright 2020, arXiv:1904.02144): the boundary's gradient, from labels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.attacks.decisions import DecisionAttack, Judge
from sparring.norms import per_image

MEMORY = 2**22
"""Numbers held at once for the directions of an estimate."""
HALVINGS = 12
"""How often a jump is halved before it is given up."""
FINEST = 1e-3
"""The least radius of an estimate, as a share of the distance: float32 cannot tell much smaller steps apart."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(DecisionAttack):
    """From a point on the boundary: estimate the boundary's normal, jump along it, bisect back towards the image.

    The normal is a mean of random directions, each counted for or against by the label that a small step that way gets.
    queries: labels asked per image, at most (the paper compares at 1,000, 5,000 and 20,000). samples: directions of the
    first estimate, the t-th takes sqrt(t) times as many (the paper's 100). In linf the jump follows the normal's signs.
    `minimize_from` takes starting points, such as a picture of each target class.
    """

    threats: ClassVar[tuple[str, ...]] = ("l2", "linf")
    paper: ClassVar[str] = "Chen et al., HopSkipJumpAttack: A Query-Efficient Decision-Based Attack, IEEE S&P 2020"

    samples: int = 100

    def __post_init__(self) -> None:
        DecisionAttack.__post_init__(self)
        at_least("samples", self.samples, 1, whole=True)

    def walk(self, judge: Judge, points: Tensor, enough: float) -> None:
        """Estimate, jump, bisect, until the queries are spent. Radius and precision are the paper's, 1/d and d^-1.5
        of the distance, down to what float32 can tell apart.
        """
        low, high = judge.problem.threat.bounds
        size = points[0].numel()
        radius = max(1 / size, FINEST)
        precision = max(radius / math.sqrt(size), FINEST / 100)
        rows = judge.going(enough)
        points[rows] = judge.approach(rows, points[rows], enough, precision)
        step = 0
        while len(rows := judge.going(enough)) > 0:
            step += 1
            here = points[rows]
            distance = judge.distance(rows, here)
            reach = (
                radius * (here - judge.problem.images[rows]).flatten(1).norm(dim=1)
                if step > 1
                else torch.full_like(distance, 0.1 * (high - low))
            )
            normal = _normals(judge, rows, here, reach, int(self.samples * math.sqrt(step)))
            if judge.problem.threat.norm == "linf":
                normal = normal.sign()
            points[rows] = _jumped(judge, rows, here, normal, distance / math.sqrt(step))
            rows = rows[judge.left[rows] > 0]
            points[rows] = judge.approach(rows, points[rows], enough, precision)


def _jumped(judge: Judge, rows: Tensor, here: Tensor, normal: Tensor, length: Tensor) -> Tensor:
    """The first adversarial on halved steps of `length` (M,) along `normal`; `here` where there is none."""
    there = here.clone()
    seeking = torch.arange(len(rows), device=rows.device)
    for _ in range(HALVINGS):
        seeking = seeking[judge.left[rows[seeking]] > 0]
        if len(seeking) == 0:
            break
        step = per_image(length[seeking], here) * normal[seeking]
        tried = judge.clipped(rows[seeking], here[seeking] + step)
        met = judge.met(rows[seeking], tried)
        there[seeking[met]] = tried[met]
        seeking, length = seeking[~met], length / 2
    return there


def _normals(judge: Judge, rows: Tensor, here: Tensor, reach: Tensor, draws: int) -> Tensor:
    """The boundary's unit normals near `here` (M, C, H, W), pointing to the adversarial side; some images at a time."""
    parts = torch.split(torch.arange(len(rows), device=rows.device), max(1, MEMORY // (draws * here[0].numel())))
    return torch.cat([_normal(judge, rows[part], here[part], reach[part], draws) for part in parts])


def _normal(judge: Judge, rows: Tensor, here: Tensor, reach: Tensor, draws: int) -> Tensor:
    """Each direction counts +1 or -1, less the mean over the image's directions (the paper's variance reduction)."""
    spread = [1] * (here.dim() - 1)
    directions = judge.draw(rows, draws)
    directions = directions / directions.flatten(2).norm(dim=2).clamp_min(1e-12).view(len(rows), draws, *spread)
    region = judge.problem.region
    tried = here[:, None] + reach.view(-1, 1, *spread) * directions
    tried = torch.clamp(tried, region.lower[rows, None], region.upper[rows, None])
    asked = torch.arange(draws, device=rows.device) < judge.left[rows, None]
    met = judge.met(rows[:, None].expand_as(asked)[asked], tried[asked])
    votes = torch.zeros(asked.shape, dtype=here.dtype, device=here.device)
    votes[asked] = met.to(here.dtype) * 2 - 1
    mean = votes.sum(1, keepdim=True) / asked.sum(1, keepdim=True)
    votes = votes.where(mean.abs() == 1, (votes - mean) * asked)
    normal = (votes.view(len(rows), draws, *spread) * (tried - here[:, None])).sum(1)
    return normal / per_image(normal.flatten(1).norm(dim=1).clamp_min(1e-12), normal)
