"""The ascent that all gradient attacks on a stack share: follow one gradient or choose between two, keep the best."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.attacks.ascent import SCHEDULES
from sparring.defenses.attacking.scene import Aims, Judged, Scene
from sparring.defenses.attacking.stages import Stage
from sparring.norms import per_image

SLACK = 1e-4
"""How far beyond its boundary a point must be, so that another batch's rounding finds the same."""


class Best:
    """The best point of a run per image: the higher share of evading draws, then the smaller gap."""

    def __init__(self, points: Tensor) -> None:
        n = len(points)
        self.points = points.clone()
        self.rate = torch.full((n,), -1.0, dtype=torch.float64, device=points.device)
        self.gap = torch.full((n,), torch.inf, dtype=torch.float64, device=points.device)
        self.lead = torch.full((n,), torch.inf, dtype=torch.float64, device=points.device)

    def offer(self, rows: Tensor, points: Tensor, judged: Judged) -> Tensor:
        """Take over what is better; returns where that was so (M,)."""
        had, before = self.rate[rows], self.gap[rows]
        better = (judged.rate > had) | ((judged.rate == had) & (judged.gap < before))
        taken = rows[better]
        self.points[taken], self.rate[taken], self.gap[taken] = points[better], judged.rate[better], judged.gap[better]
        self.lead[rows] = torch.minimum(self.lead[rows], judged.lead)
        return better


def climb(scene: Scene, aims: Aims, start: Tensor, stage: Stage, purpose: str) -> tuple[Best, Tensor]:
    """One run of `stage` from `start`: the best of its points and the last ones. Images that evade leave early where
    the stack has no randomness; in l1 and l0 steps are sparse, as PGD's.
    """
    best, last = Best(start), start.clone()
    rows, points = torch.arange(len(scene), device=start.device), start
    fixed = not scene.stack.random
    for step in range(stage.steps):
        grads, judged = scene.gradients(points, stage.objective, aims, f"{purpose} {step}", stage.draws, stage.gradient)
        best.offer(rows, points, judged)
        direction = combined(stage.combine, grads, judged)
        if fixed:
            keep = ((judged.rate < 1) | (judged.gap > -SLACK)).nonzero().flatten()
            if len(keep) < len(rows):
                last[rows] = points
                scene, aims, rows = scene.select(keep), aims.select(keep), rows[keep]
                points, direction = points[keep], direction[keep]
                if not len(rows):
                    return best, last
        points = scene.region.advance(points, direction, step_size(scene, stage, step))
    last[rows] = points
    best.offer(rows, points, scene.judged(points, f"{purpose} end", stage.draws))
    return best, last


def step_size(scene: Scene, stage: Stage, step: int) -> float:
    """Of the size that the stage asks for, in multiples of eps, on its schedule."""
    if scene.threat.norm == "l0":
        low, high = scene.threat.bounds
        return 2 * (high - low)
    return stage.size * scene.threat.eps * SCHEDULES[stage.schedule](step / stage.steps)


def combined(how: str, grads: list[Tensor], judged: Judged) -> Tensor:
    """One direction from the gradients of the classifier's and the detectors' values.

    "sum": their sum. "selective": the classifier's while the answer is right, else the detectors'. "orthogonal": the
    same, without its component along the other (Bryniarski et al. 2021).
    """
    if len(grads) == 1:
        return grads[0]
    first, second = grads
    if how == "sum":
        return first + second
    wrong = per_image(judged.lead < 0, first)
    if how == "orthogonal":
        first, second = _without(first, second), _without(second, first)
    return torch.where(wrong, second, first)


def _without(grad: Tensor, other: Tensor) -> Tensor:
    """`grad` minus its component along `other`."""
    a, b = grad.flatten(1), other.flatten(1)
    along = (a * b).sum(1, keepdim=True) / b.square().sum(1, keepdim=True).clamp_min(1e-30)
    return (a - along * b).view_as(grad)
