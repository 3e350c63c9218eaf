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
        points = scene.region.project(_with_squares(scene, best.points, share, streams.uniform((10,), start)))
        best.offer(rows, points, scene.judged(points, f"{purpose} {query}", draws))
    return best


def _with_squares(scene: Scene, points: Tensor, share: float, drawn: Tensor) -> Tensor:
    """The points with one square each moved by eps up or down in every channel."""
    channels, *extents = points.shape[1:]
    inside = points.new_ones((len(points), 1, 1), dtype=torch.bool)
    for dim, extent in enumerate(extents):
        side = max(1, round(extent * share**0.5))
        first = (drawn[:, dim] * (1 + extent - side)).floor()[:, None]
        places = torch.arange(extent, device=points.device)
        within = (places >= first) & (places < first + side)
        inside = inside & (within[:, :, None] if dim == 0 else within[:, None, :])
    columns = 2 + torch.arange(channels, device=points.device) % (drawn.shape[1] - 2)
    signs = ((drawn[:, columns] < 0.5).to(points.dtype) * 2 - 1)[:, :, None, None]
    if scene.threat.norm == "linf":
        moved = scene.images + scene.threat.eps * signs
    else:
        low, high = scene.threat.bounds
        moved = points + (high - low) * share * signs
    return torch.where(inside[:, None], moved, points)
