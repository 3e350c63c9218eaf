"""N-FGSM (de Jorge et al. 2022, arXiv:2202.01181)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.hardening.craft import check_positive, noisy, single_step
from sparring.hardening.method import Batch, Method, mean_loss


@dataclass(frozen=True, kw_only=True)
class NFGSM(Method):
    """Strong noise, one full step from there, and no projection into the ball: the noise counts as augmentation.

    noise: radius of the uniform noise as a multiple of eps (the paper's 2). On pictures that are almost black and
    white a large eps with noise above 1 drowns the picture; the box, not the ball, limits what the step may do. Only
    the end of the step is clipped: the noise may leave the box (the authors' code clips it there, too).
    """

    paper: ClassVar[str] = "de Jorge et al., Make Some Noise: Reliable and Efficient Single-Step AT, NeurIPS 2022"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")

    noise: float = 2.0
    step: float = 1.0

    def __post_init__(self) -> None:
        check_positive("noise", self.noise)
        check_positive("step", self.step)

    def craft(self, batch: Batch) -> Tensor:
        """Noise, then one step from the noisy picture; the ball of both together holds it, so only the box clips."""
        eps = batch.threat.eps
        region = batch.threat.with_eps((self.noise + self.step) * eps).around(batch.images)
        return single_step(batch, region, noisy(batch, self.noise * eps), self.step * eps)

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean loss at the points."""
        return mean_loss(batch, points)
