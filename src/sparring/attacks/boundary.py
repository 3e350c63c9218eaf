"""Boundary attack (Brendel, Rauber & Bethge 2018, arXiv:1712.04248): a random walk along the boundary, labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.decisions import DecisionAttack, Judge
from sparring.attacks.minimal import length
from sparring.norms import per_image

FIRST = 0.1
"""Length of the first steps, sideways and ahead, as a share of the distance."""
SIDEWAYS, AHEAD = 0.5, 0.4
"""Shares of steps that should stay adversarial: of those along the sphere (the paper's), and of those that also go
ahead; a step that succeeds more often grows, one that succeeds less often shrinks."""
ADAPTATION = 1.5
CHECK = 10
"""Every so many steps the point before the step ahead is asked about too."""
PRECISION = 1e-3
"""How well the boundary is found, as a share of the distance, before the walk begins."""
BLOCK = 2**16
"""Numbers drawn at once per image, for as many steps as they last."""


@dataclass(frozen=True, kw_only=True)
class Boundary(DecisionAttack):
    """Steps at random along the sphere around the image, then a little towards it, and stays where that is adversarial.

    Both lengths adapt to each image by how often such steps succeed. queries: labels asked per image, at most; the
    paper walks for many thousands, and HopSkipJump comes nearer with as many. `minimize_from` takes starting points,
    such as a picture of each target class.
    """

    threats: ClassVar[tuple[str, ...]] = ("l2",)
    paper: ClassVar[str] = (
        "Brendel et al., Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning "
        "Models, ICLR 2018"
    )

    def walk(self, judge: Judge, points: Tensor, enough: float) -> None:
        """One question per step and image, and every tenth step another."""
        rows = judge.going(enough)
        judge.approach(rows, points[rows], enough, PRECISION)
        sideways = torch.full((len(points),), FIRST, dtype=points.dtype, device=points.device)
        ahead, noise = sideways.clone(), points
        block = max(1, min(32, BLOCK // points[0].numel()))
        step = 0
        while len(going := judge.going(enough)) > 0:
            if step % block == 0:
                rows, noise = going, judge.draw(going, block)
            elif len(going) < len(rows):
                kept = torch.isin(rows, going)
                rows, noise = going, noise[kept]
            sphere, nearer = _proposals(judge, rows, noise[:, step % block], sideways[rows], ahead[rows])
            met = judge.met(rows, nearer)
            judge.nearest.offer(rows, nearer, met)
            ahead[rows] *= _adapted(met, AHEAD)
            step += 1
            if step % CHECK == 0:
                asked = judge.left[rows] > 0
                sideways[rows[asked]] *= _adapted(judge.met(rows[asked], sphere[asked]), SIDEWAYS)


def _adapted(met: Tensor, target: float) -> Tensor:
    """The factor on a step's length: 1 in the geometric mean where the share `target` of steps succeeds."""
    return torch.where(met, ADAPTATION ** (1 - target), ADAPTATION**-target)


def _proposals(judge: Judge, rows: Tensor, noise: Tensor, sideways: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
    """A point on the sphere around the image, `sideways` (M,) of its radius away, and one a share `ahead` nearer."""
    images = judge.problem.images[rows]
    away = judge.nearest.points[rows] - images
    radius = _norm(away)
    unit = away / per_image(radius, away)
    noise = noise - per_image((noise * unit).flatten(1).sum(1), noise) * unit
    turned = unit + per_image(sideways / _norm(noise), noise) * noise
    sphere = judge.clipped(rows, images + turned * per_image(radius / (1 + sideways.square()).sqrt(), turned))
    back = sphere - images  # the box may have moved the point
    scale = (radius * (1 - ahead) / _norm(back)).clamp(0, 1)
    return sphere, judge.clipped(rows, images + per_image(scale, back) * back)


def _norm(delta: Tensor) -> Tensor:
    return length(delta, "l2").clamp_min(1e-12)
