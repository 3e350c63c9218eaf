"""TRADES (Zhang et al. 2019, arXiv:1901.08573)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from sparring.hardening.craft import check_positive, check_steps, climb, near
from sparring.hardening.inner import crafted_by
from sparring.hardening.method import Batch, Method
from sparring.model import frozen_eval


@dataclass(frozen=True, kw_only=True)
class TRADES(Method):
    """Right on the clean image, and the same answer all around it: CE(f(x), y) + beta·KL(f(x) ‖ f(x')).

    x' maximises that KL from a start with normal noise of 0.001, in evaluation mode. beta: the paper's 6; larger gives
    up clean accuracy for robustness. steps: the paper's 10; step_size: in image units, None for 2.5·eps/steps.
    inner: another attack of the table (on the cross-entropy) instead. Clean and perturbed images pass through the
    model together, so batch norm sees both.
    """

    paper: ClassVar[str] = "Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019"
    beside: ClassVar[bool] = True

    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None
    inner: str | None = None

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_steps(self.steps, self.step_size)

    def craft(self, batch: Batch) -> Tensor:
        """The last iterate of an ascent on the KL divergence."""
        if self.inner is not None:
            return crafted_by(self.inner, batch)
        with frozen_eval(batch.module), torch.no_grad():
            clean = log_softmax(batch.module(batch.images), 1)

        def divergence(logits: Tensor) -> Tensor:
            return kl_div(log_softmax(logits, 1), clean, reduction="none", log_target=True).sum(1)

        return climb(batch, near(batch, 1e-3), self.steps, self.step_size, divergence)

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Clean loss plus beta times the divergence, both averaged over the batch."""
        clean, moved = batch.learner(self.shown(batch, points)).chunk(2)
        apart = kl_div(log_softmax(moved, 1), log_softmax(clean, 1), reduction="batchmean", log_target=True)
        return batch.criterion.learn(clean, batch.labels).mean() + self.beta * apart
