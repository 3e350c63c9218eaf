"""Gradients from logits alone: each image's own loss at pairs of points on either side of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparring.attacks.ascent import Best
from sparring.losses import Loss
from sparring.norms import per_image
from sparring.problem import Problem
from sparring.rng import Streams

MEMORY = 2**22
"""Numbers held at once for the directions of an estimate."""

Draw = Callable[[Streams, Sequence[int], Tensor], Tensor]
"""Directions (N, *shape) from the images' streams, with independent entries of mean 0 and variance 1."""


def estimate(problem: Problem, points: Tensor, loss: str | Loss, draw: Draw, pairs: int, spread: float) -> Tensor:
    """The gradient of `loss` at `points` (N, C, H, W) as the mean of `pairs` differences, two queries each.

    Mean over u of u (L(x + spread u) - L(x - spread u)) / (2 spread): its expectation is the gradient where the loss
    is linear. Points are kept in the region's pixel bounds, so a pixel that can move one way only counts half.
    """
    size = points[0].numel()
    images_at_once = max(1, MEMORY // (2 * pairs * size))
    parts = torch.split(torch.arange(len(problem), device=points.device), images_at_once)
    return torch.cat([_estimate(problem, points, rows, loss, draw, pairs, spread) for rows in parts])


def _estimate(
    problem: Problem, points: Tensor, rows: Tensor, loss: str | Loss, draw: Draw, pairs: int, spread: float
) -> Tensor:
    chosen = torch.zeros(len(problem), dtype=torch.bool, device=rows.device)
    chosen[rows] = True
    lower, upper, here = (part[rows, None] for part in (problem.region.lower, problem.region.upper, points))
    directions = draw(problem.streams.select(chosen), (pairs, *points.shape[1:]), points)
    asked = torch.stack([here + spread * directions, here - spread * directions], 1)
    asked = torch.clamp(asked, lower[:, None], upper[:, None]).flatten(0, 2)
    owners = rows.repeat_interleave(2 * pairs)
    values = problem.loss_values(problem.logits_at(asked, owners), loss, owners).to(points.dtype)
    values = values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).view(len(rows), 2, pairs)
    slopes = (values[:, 0] - values[:, 1]) / (2 * spread * pairs)
    return (per_image(slopes, directions) * directions).sum(1)


def pairs_within(queries: int, samples: int) -> int:
    """Pairs of a step's estimate: half of `samples`, or what `queries` leave for one step."""
    return max(1, min(samples, queries - 1) // 2)


def steps_within(queries: int, samples: int) -> int:
    """Steps that `queries` pay for: each an estimate, and a look at where it led."""
    return queries // (2 * pairs_within(queries, samples) + 1)


def climb(
    problem: Problem,
    loss: str | Loss,
    queries: int,
    samples: int,
    gradient: Callable[[Problem, Tensor, int], Tensor],
    move: Callable[[Problem, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Estimate, move, look: the best point per image after at most `queries` forward passes each.

    `gradient(problem, points, pairs)` estimates with `samples` queries, or what the budget has for one step if that is
    less; `move(problem, rows, points, grad)` gives the next points of images `rows` (M,). Solved images leave.
    """
    best = Best(problem)
    rows = torch.arange(len(problem), device=problem.images.device)
    points, pairs = problem.images, pairs_within(queries, samples)
    for _ in range(steps_within(queries, samples)):
        points = move(problem, rows, points, gradient(problem, points, pairs))
        logits = problem.logits(points)
        best.offer(rows, points, problem.goal.is_met(logits), problem.loss_values(logits, loss))
        keep = ~problem.solved(logits)
        problem, rows, points = problem.select(keep), rows[keep], points[keep]
        if len(rows) == 0:
            break
    return best.points
