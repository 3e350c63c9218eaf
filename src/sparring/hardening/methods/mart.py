"""MART (Wang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from sparring.hardening.craft import against_labels, check_positive, check_steps, climb, near
from sparring.hardening.inner import crafted_by
from sparring.hardening.method import Batch, Method


@dataclass(frozen=True, kw_only=True)
class MART(Method):
    """Images the model gets wrong anyway weigh more: boosted CE(f(x'), y) + weight·KL(f(x) ‖ f(x'))·(1 - p_y(x)).

    Boosted: -log p_y(x') - log(1 - largest other p(x')). weight: the paper's 5. steps: 10; step_size: in image units,
    None for 2.5·eps/steps. inner: another attack of the table. The user's own loss has no place in it.
    """

    paper: ClassVar[str] = (
        "Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples, 2020"
    )

    own_loss: ClassVar[bool] = True
    beside: ClassVar[bool] = True

    weight: float = 5.0
    steps: int = 10
    step_size: float | None = None
    inner: str | None = None

    def __post_init__(self) -> None:
        check_positive("weight", self.weight)
        check_steps(self.steps, self.step_size)

    def craft(self, batch: Batch) -> Tensor:
        """The last iterate of an ascent on the cross-entropy, from beside the image."""
        if self.inner is not None:
            return crafted_by(self.inner, batch)
        return climb(batch, near(batch, 1e-3), self.steps, self.step_size, against_labels(batch))

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Boosted cross-entropy plus the weighted divergence."""
        clean, moved = batch.learner(self.shown(batch, points)).chunk(2)
        labels = batch.labels[:, None]
        log_clean, log_moved = log_softmax(clean, 1), log_softmax(moved, 1)
        other = log_moved.scatter(1, labels, -torch.inf).amax(1).exp()
        boosted = -log_moved.gather(1, labels).squeeze(1) - torch.log1p(-other + 1e-4)
        apart = kl_div(log_moved, log_clean, reduction="none", log_target=True).sum(1)
        doubt = 1 - log_clean.gather(1, labels).squeeze(1).exp() + 1e-7
        return (boosted + self.weight * apart * doubt).mean()
