"""Fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import os
import torch
from torch import Tensor

from sparring import norms
from sparring.attacks.base import at_least
from sparring.attacks.hyperplane import nearest_boundary, rivals_of
from sparring.attacks.minimal import MinimalAttack, Nearest, length, per_image
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class FAB(MinimalAttack):
    """
    """

    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    paper: ClassVar[str] = (
        "Croce & Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020"
    )

    steps: int = 100
    restarts: int = 1
    targets: int = 0
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    classes: int = 10
    close: int = 3
    refresh: int = 10
    search_steps: int = 3
    patience: int = 0

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        best = Nearest(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        logits = problem.logits(problem.images)
        best.offer(rows, problem.images, problem.solved(logits))
        if self.targets: 
            rivals = rivals_of(problem, logits, self.targets)
            for restart in range(self.restarts):
                for t in rivals.unbind(1):
                    left = best.distance > enough
                    self._run(problem.aiming(t).select(left), rows[left], best, None, enough, restart)
        else:
            rivals = rivals_of(problem, logits, self.classes-1)
            for restart in range(self.restarts):
                left = best.distance > enough
                self._run(problem.select(left), rows[left], best, rivals[left], enough, restart)
        best.draw_in(problem, self.search_steps, enough)
        return best.points

    def _run(self, problem, rows, best, rivals, enough, restart):
        V=os.environ.get("V","1")
        points = problem.images
        full = rivals
        lastbest = torch.full((len(rows),), torch.inf); since=torch.zeros(len(rows))
        for step in range(self.steps):
            if not len(rows): return
            use = None if rivals is None else (full if step%self.refresh==0 else rivals)
            b = nearest_boundary(problem, points, use)
            if step%self.refresh==0: rivals=b.close(self.close)
            if V=="1":
                met = problem.solved(b.logits)
                best.offer(rows, points, met)
                points = torch.where(per_image(met, points), problem.images+self.beta*(points-problem.images), points)
                d=best.distance[rows]
                keep = d > enough
                if self.patience:
                    imp = d < lastbest*(1-1e-3); lastbest=torch.where(imp,d,lastbest); since=torch.where(imp|d.isinf(),0,since+1)
                    keep &= since<self.patience
                if not keep.all():
                    b=b.select(keep); problem=b.problem; rows=rows[keep]; points=points[keep]; lastbest=lastbest[keep]; since=since[keep]
                    if rivals is not None: rivals=rivals[keep]; full=full[keep]
                    if not len(rows): return
            here, there = b.way(points), b.way(problem.images)
            a1,a2=length(here, problem.region.norm), length(there, problem.region.norm)
            alpha=(a1/(a1+a2).clamp_min(1e-12)).clamp(0,self.alpha_max)
            A=per_image(alpha,points)
            points = torch.clamp((1-A)*(points+self.eta*here)+A*(problem.images+self.eta*there), problem.region.lower, problem.region.upper)
            if V=="0":
                met = problem.solved(problem.logits(points))
                best.offer(rows, points, met)
                points = torch.where(per_image(met, points), problem.images+self.beta*(points-problem.images), points)
        if V=="1":
            best.offer(rows, points, problem.solved(problem.logits(points)))
