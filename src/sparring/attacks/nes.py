"""Natural evolution strategies (Ilyas et al. 2018, arXiv:1804.08598): PGD on gradients estimated from queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.base import Attack, at_least
from sparring.attacks.finite_differences import climb, estimate, steps_within
from sparring.errors import InputError
from sparring.losses import Loss
from sparring.problem import Problem
from sparring.rng import Streams


@dataclass(frozen=True, kw_only=True)
class NES(Attack):
    """Steps along the mean of Gaussian directions, each weighted by how much the loss differs between its two ends.

    queries: forward passes per image, at most. samples: per step, in pairs x ± spread·u (the paper's 50). spread: as a
    share of the range of values (0.001). step_size: in image units, None for eps/5 (the paper's 0.01 at eps 0.05), or
    2.5·eps/steps where the queries pay for few steps. momentum: weight of the older estimates in a step (0.9, as in the
    authors' code). loss: the margin, where the paper has the cross-entropy, which rounds to a constant on confident
    models.
    """

    access: ClassVar[str] = "logits"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "Ilyas et al., Black-box Adversarial Attacks with Limited Queries and Information, ICML 2018"

    queries: int = 5000
    samples: int = 50
    spread: float = 0.001
    step_size: float | None = None
    momentum: float = 0.9
    loss: str | Loss = "margin"

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("queries", self.queries, 3, whole=True)
        at_least("samples", self.samples, 2, whole=True)
        at_least("momentum", self.momentum, 0)
        at_least("spread", self.spread, 1e-6)
        if self.step_size is not None:
            at_least("step_size", self.step_size, 0)
        if self.momentum >= 1:
            raise InputError(f"momentum must be below 1, got {self.momentum!r}")

    def run(self, problem: Problem) -> Tensor:
        """The best iterate per image."""
        low, high = problem.threat.bounds
        size = self.step_size
        if size is None:
            size = problem.threat.eps * max(0.2, 2.5 / steps_within(self.queries, self.samples))
        velocity = torch.zeros_like(problem.images)

        def gradient(problem: Problem, points: Tensor, pairs: int) -> Tensor:
            return estimate(problem, points, self.loss, Streams.normal, pairs, self.spread * (high - low))

        def move(problem: Problem, rows: Tensor, points: Tensor, grad: Tensor) -> Tensor:
            velocity[rows] = self.momentum * velocity[rows] + (1 - self.momentum) * grad
            return problem.region.advance(points, velocity[rows], size)

        return climb(problem, self.loss, self.queries, self.samples, gradient, move)
