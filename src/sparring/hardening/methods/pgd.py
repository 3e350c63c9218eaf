"""PGD adversarial training (Madry et al. 2018, arXiv:1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.hardening.craft import against_labels, check_steps, climb
from sparring.hardening.inner import crafted_by
from sparring.hardening.method import Batch, Method, mean_loss


@dataclass(frozen=True, kw_only=True)
class PGD(Method):
    """Learns from the end of a projected gradient ascent with a random start: min over weights of max over the ball.

    steps: the paper's 7 (CIFAR-10). step_size: in image units, None for 2.5·eps/steps. inner: another attack of the
    table as text, "mifgsm:steps=5", instead of the ascent; images it has solved go on all the same.
    """

    paper: ClassVar[str] = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"

    steps: int = 7
    step_size: float | None = None
    random_start: bool = True
    inner: str | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)

    def craft(self, batch: Batch) -> Tensor:
        """The last iterate."""
        if self.inner is not None:
            return crafted_by(self.inner, batch)
        start = batch.draws.inside(batch.threat.around(batch.images)) if self.random_start else batch.images
        return climb(batch, start, self.steps, self.step_size, against_labels(batch))

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean loss at the points."""
        return mean_loss(batch, points)
