"""Boundary attack (Brendel, Rauber & Bethge 2018, arXiv:1712.04248): a random walk along the boundary, labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.attacks.decisions import DecisionAttack, Judge, wide

CHECK = 10
BLOCK = 2**16
"""Numbers drawn together per image, for as many steps as they last."""
ADAPT=1.2
TS=0.5
TA=0.25
INIT=0.1
INITA=0.1
PREC=0.001

@dataclass(frozen=True, kw_only=True)
class Boundary(DecisionAttack):
    """d"""

    threats: ClassVar[tuple[str, ...]] = ("l2",)
    paper: ClassVar[str] = "Brendel et al., Decision-Based Adversarial Attacks, ICLR 2018"

    def walk(self, judge: Judge, points: Tensor, enough: float) -> None:
        problem, nearest = judge.problem, judge.nearest
        rows = judge.going(enough)
        points = points.clone()
        points[rows] = judge.approach(rows, points[rows], enough, PREC)
        side = torch.full((len(problem),), INIT, dtype=points.dtype, device=points.device)
        ahead = torch.full_like(side, INITA)
        block = max(1, min(32, BLOCK // points[0].numel()))
        step = 0
        draws = points
        while True:
            going = judge.going(enough)
            if len(going) == 0:
                break
            if step % block == 0:
                rows = going
                draws = judge.draw(rows, block)
            else:
                keep = torch.isin(rows, going)
                rows, draws = rows[keep], draws[keep]
            here = points[rows]
            sphere, closer = _proposals(judge, rows, here, draws[:, step % block], side[rows], ahead[rows])
            met = judge.met(rows, closer)
            nearest.offer(rows, closer, met)
            points[rows] = nearest.points[rows]
            ahead[rows] *= torch.where(met, ADAPT ** (1 - TA), ADAPT ** -TA)
            step += 1
            if step % CHECK == 0:
                m = judge.left[rows] > 0
                r = rows[m]
                ok = judge.met(r, sphere[m])
                side[r] *= torch.where(ok, ADAPT2 ** (1 - TS), ADAPT2 ** -TS)

ADAPT2=1.5

def _proposals(judge: Judge, rows: Tensor, here: Tensor, noise: Tensor, side: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
    images = judge.problem.images[rows]
    away = here - images
    far = away.flatten(1).norm(dim=1)
    unit = away / wide(far.clamp_min(1e-12), away)
    noise = noise - wide((noise * unit).flatten(1).sum(1), noise) * unit
    noise = noise / wide(noise.flatten(1).norm(dim=1).clamp_min(1e-12), noise)
    turned = unit + wide(side, noise) * noise
    sphere = judge.clipped(rows, images + turned * wide(far / (1 + side.square()).sqrt(), turned))
    back = sphere - images
    now = back.flatten(1).norm(dim=1).clamp_min(1e-12)
    goal = (far * (1 - ahead)).clamp_min(0)
    scale = torch.minimum(goal / now, torch.ones_like(now))
    return sphere, judge.clipped(rows, images + wide(scale, back) * back)
