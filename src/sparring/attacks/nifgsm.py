"""Nesterov iterative FGSM, and its scale-invariant form (Lin et al. 2020, arXiv:1908.06281)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.attacks.base import Attack
from sparring.attacks.transfer import TransferFGSM
from sparring.losses import Loss
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class NIFGSM(Attack):
    """MI-FGSM with its gradient taken where the momentum leads: at x + step_size·decay·v.

    steps, decay: the paper's. step_size: in image units, None for eps/steps. scales: copies of the image at full, half,
    quarter ... brightness whose gradients are averaged; 5 is the paper's SI-NI-FGSM. early_stop: solved images leave
    at once; off, as the adversarials are meant to transfer.
    """

    threats: ClassVar[tuple[str, ...]] = TransferFGSM.threats
    paper: ClassVar[str] = "Lin et al., Nesterov Accelerated Gradient and Scale Invariance, ICLR 2020"

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    scales: int = 1
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
            scales=self.scales,
            diversity=0.0,
            kernel=1,
            loss=self.loss,
            early_stop=self.early_stop,
        )
