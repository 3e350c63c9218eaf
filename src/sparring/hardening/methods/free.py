"""Free adversarial training (Shafahi et al. 2019, arXiv:1904.12843)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.errors import InputError
from sparring.hardening.craft import leap
from sparring.hardening.method import Batch, Method, mean_loss


@dataclass(frozen=True, kw_only=True)
class Free(Method):
    """Each batch is learned from `replays` times, and the gradient of every pass moves weights and perturbation alike.

    The perturbation goes on from batch to batch. replays: the paper's 8. An epoch is as many updates as with every
    other method, so `epochs` of them see the data `epochs / replays` times, as in the paper: do not divide again. The
    gradient is that of the learning pass, so batch norm is in training mode here.
    """

    paper: ClassVar[str] = "Shafahi et al., Adversarial Training for Free!, NeurIPS 2019"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    epochs: ClassVar[int] = 20

    replays: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.replays, bool) or not isinstance(self.replays, int) or self.replays < 1:
            raise InputError(f"replays must be a whole number >= 1, got {self.replays!r}")

    @property
    def repeats(self) -> int:
        """Passes over the same batch."""
        return self.replays

    def craft(self, batch: Batch) -> Tensor:
        """Where the last pass's gradient leads from the last perturbation."""
        region = batch.threat.around(batch.images)
        delta, grad = batch.memory.get("delta"), batch.memory.get("grad")
        points = batch.images
        if delta is not None and delta.shape == points.shape:
            points = region.project(batch.images + delta)
            if grad is not None:
                points = leap(batch.threat, region, points, grad, batch.threat.eps)
        batch.memory["delta"] = points - batch.images
        return points

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean loss; its gradient at the points is kept for the next pass."""
        at = points.detach().requires_grad_()
        at.register_hook(  # type: ignore[no-untyped-call]
            lambda grad: batch.memory.__setitem__("grad", grad.detach().clone())
        )
        return mean_loss(batch, at)
