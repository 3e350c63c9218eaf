"""Diverse-input iterative FGSM (Xie et al. 2019, arXiv:1803.06978)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.attacks.base import Attack
from sparring.attacks.transfer import TransferFGSM
from sparring.losses import Loss
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DIFGSM(Attack):
    """M-DI²-FGSM: momentum along gradients of pictures that were, now and then, shrunk and put at a random place.

    steps: 10. step_size: in image units, None for eps/steps. decay: 1 with momentum, 0 for the paper's plain DI²-FGSM.
    diversity: the chance of a change, 0.5 in the paper. shrink: the smallest size, 0.9 (the paper's 299 of 330 pixels).
    early_stop: solved images leave at once; off, as the adversarials are meant to transfer.
    """

    threats: ClassVar[tuple[str, ...]] = TransferFGSM.threats
    paper: ClassVar[str] = "Xie et al., Improving Transferability with Input Diversity, CVPR 2019"

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    diversity: float = 0.5
    shrink: float = 0.9
    loss: str | Loss = "cross_entropy"
    early_stop: bool = False

    def __post_init__(self) -> None:
        self._as_transfer()

    def run(self, problem: Problem) -> Tensor:
        """The best iterate per image."""
        return self._as_transfer().run(problem)

    def _as_transfer(self) -> TransferFGSM:
        return TransferFGSM(
            steps=self.steps,
            step_size=self.step_size,
            decay=self.decay,
            nesterov=False,
            scales=1,
            diversity=self.diversity,
            shrink=self.shrink,
            kernel=1,
            loss=self.loss,
            early_stop=self.early_stop,
        )
