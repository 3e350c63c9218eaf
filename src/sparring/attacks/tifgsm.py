"""Translation-invariant iterative FGSM (Dong et al. 2019, arXiv:1904.02884)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.attacks.base import Attack
from sparring.attacks.transfer import TransferFGSM
from sparring.losses import Loss
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class TIFGSM(Attack):
    """TI-MI-FGSM: momentum along gradients smoothed by a Gaussian, as if averaged over shifts of the picture.

    steps: 10. step_size: in image units, None for eps/steps. decay: 1 with momentum, 0 for TI-BIM. kernel: width of the
    Gaussian in pixels, odd, cut at three standard deviations: 15 in the paper, for pictures of 299 pixels; take less
    for small ones. early_stop: solved images leave at once; off, as the adversarials are meant to transfer.
    """

    threats: ClassVar[tuple[str, ...]] = TransferFGSM.threats
    paper: ClassVar[str] = "Dong et al., Evading Defenses by Translation-Invariant Attacks, CVPR 2019"

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    kernel: int = 15
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
            diversity=0.0,
            kernel=self.kernel,
            loss=self.loss,
            early_stop=self.early_stop,
        )
