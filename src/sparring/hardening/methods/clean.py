"""Normal training, to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.hardening.method import Batch, Method, mean_loss
from sparring.norms import NORMS


@dataclass(frozen=True, kw_only=True)
class Clean(Method):
    """The images as they are: no defence at all, and the yardstick for accuracy and cost."""

    paper: ClassVar[str] = "LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998"
    threats: ClassVar[tuple[str, ...]] = NORMS

    def craft(self, batch: Batch) -> Tensor:
        """The images."""
        return batch.images

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean loss."""
        return mean_loss(batch, points)
