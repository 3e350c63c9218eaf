"""A gradient-free search against a stack: random squares, kept where they bring an image nearer to evading."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.defenses.attacking.climb import Best
from sparring.defenses.attacking.scene import Scene


def searched(scene: Scene, start: Tensor, queries: int, draws: int, purpose: str) -> Best:
    """The best points after `queries` questions per image, starting at `start` (Andriushchenko et al. 2020,
    arXiv:1912.00049, with the stack's gap for a loss: where gradients are masked, this still sees the way).
    """
    best = Best(start)
    rows = torch.arange(len(scene), device=start.device)
    best.offer(rows, start, scene.judged(start, f"{purpose} start", draws))
    streams = scene.streams(purpose)
    for query in range(queries):
        share = max(0.02, 0.3 * (1 - query / queries) ** 2)
        points = scene.region.project(_with_squares(scene, best.points, share, streams.uniform((4 + 8,), start)))
        best.offer(rows, points, scene.judged(points, f"{purpose} {query}", draws))
    return best


def _with_squares(scene: Scene, points: Tensor, share: float, drawn: Tensor) -> Tensor:
    """The points with one square each moved by eps up or down in every channel."""
    channels, height, width = points.shape[1:]
    sides = [max(1, round(side * share**0.5)) for side in (height, width)]
    down, right = (
        (drawn[:, i] * (1 + s - side)).floor() for i, (s, side) in enumerate(((height, sides[0]), (width, sides[1])))
    )
    i, j = (torch.arange(side, device=points.device, dtype=points.dtype) for side in (height, width))
    inside = ((i >= down[:, None]) & (i < down[:, None] + sides[0]))[:, :, None]
    inside = inside & ((j >= right[:, None]) & (j < right[:, None] + sides[1]))[:, None, :]
    signs = (drawn[:, 4:][:, torch.arange(channels, device=points.device) % 8] < 0.5).to(points.dtype) * 2 - 1
    reach = scene.threat.eps if scene.threat.norm == "linf" else scene.threat.bounds[1] - scene.threat.bounds[0]
    moved = (
        scene.images + reach * signs[:, :, None, None]
        if scene.threat.norm == "linf"
        else points + reach * signs[:, :, None, None] * share
    )
    return torch.where(inside[:, None], moved, points)
