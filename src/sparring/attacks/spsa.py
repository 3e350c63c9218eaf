"""SPSA (Uesato et al. 2018, arXiv:1802.05666): Adam on simultaneous-perturbation estimates of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.base import Attack, at_least
from sparring.attacks.finite_differences import climb, estimate, steps_within
from sparring.losses import Loss
from sparring.problem import Problem
from sparring.rng import Streams

DECAYS = (0.9, 0.999)
"""Adam's, for the mean and for the mean square of the estimates."""


@dataclass(frozen=True, kw_only=True)
class SPSA(Attack):
    """Estimates the gradient from random signs on all pixels at once and follows it with Adam.

    queries: forward passes per image, at most. samples: per step, in pairs x ± spread·signs (128, as in CleverHans; the
    paper takes up to 8,192). spread: as a share of the range of values (0.01). step_size: of Adam, in image units, None
    for 0.01 of the range, or more where the queries pay for too few steps to spend the budget. loss: the margin, as in
    the paper.
    """

    access: ClassVar[str] = "logits"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    paper: ClassVar[str] = (
        "Uesato et al., Adversarial Risk and the Dangers of Evaluating Against Weak Attacks, ICML 2018"
    )

    queries: int = 5000
    samples: int = 128
    spread: float = 0.01
    step_size: float | None = None
    loss: str | Loss = "margin"

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("queries", self.queries, 3, whole=True)
        at_least("samples", self.samples, 2, whole=True)
        at_least("spread", self.spread, 1e-6)
        if self.step_size is not None:
            at_least("step_size", self.step_size, 0)

    def run(self, problem: Problem) -> Tensor:
        """The best iterate per image."""
        low, high = problem.threat.bounds
        size = self.step_size
        if size is None:
            least = problem.threat.eps / (1 if problem.threat.norm == "linf" else problem.images[0].numel() ** 0.5)
            size = max(0.01 * (high - low), 2.5 * least / steps_within(self.queries, self.samples))
        mean, square = torch.zeros_like(problem.images), torch.zeros_like(problem.images)
        steps = 0

        def gradient(problem: Problem, points: Tensor, pairs: int) -> Tensor:
            return estimate(problem, points, self.loss, _signs, pairs, self.spread * (high - low))

        def move(problem: Problem, rows: Tensor, points: Tensor, grad: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            mean[rows] = mean[rows].lerp(grad, 1 - DECAYS[0])
            square[rows] = square[rows].lerp(grad.square(), 1 - DECAYS[1])
            root = (square[rows] / (1 - DECAYS[1] ** steps)).sqrt().clamp_min(1e-12)
            step = mean[rows] / (1 - DECAYS[0] ** steps) / root
            return problem.region.project(points + size * step)

        return climb(problem, self.loss, self.queries, self.samples, gradient, move)


def _signs(streams: Streams, shape: Sequence[int], like: Tensor) -> Tensor:
    return streams.integers(2, shape, like).to(like.dtype) * 2 - 1
