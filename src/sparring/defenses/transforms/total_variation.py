"""Total-variation denoising (Rudin, Osher & Fatemi 1992; by Chambolle's algorithm, 2004)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.transforms.base import Transform

STEP = 0.25
"""Of the dual ascent; 1/(2·2) for two dimensions."""


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Transform):
    """The picture u that minimises ‖u - x‖²/2 + weight·‖∇u‖, each channel by itself.

    steps: iterations on the dual field. Guo et al. 2018 (arXiv:1711.00117) use it as a defense. The gradient is that of
    all iterations.
    """

    paper: ClassVar[str] = "Chambolle, An Algorithm for Total Variation Minimization, J. Math. Imaging and Vision 2004"

    weight: float = 0.1
    steps: int = 30

    def __post_init__(self) -> None:
        at_least("weight", self.weight, 1e-6)
        at_least("steps", self.steps, 1, whole=True)

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """`steps` iterations."""
        down, right = torch.zeros_like(images), torch.zeros_like(images)
        smooth = images
        for _ in range(self.steps):
            rise, run = _forward(smooth, 2), _forward(smooth, 3)
            length = (rise**2 + run**2 + 1e-14).sqrt()
            shrink = 1 + STEP / self.weight * length
            down, right = (down - STEP * rise) / shrink, (right - STEP * run) / shrink
            smooth = images - _backward(down, 2) - _backward(right, 3)
        return smooth.clamp(0, 1)


def _forward(values: Tensor, dim: int) -> Tensor:
    """Next minus this; 0 at the end."""
    last = values.narrow(dim, values.shape[dim] - 1, 1)
    return values.diff(dim=dim, append=last)


def _backward(values: Tensor, dim: int) -> Tensor:
    """This minus the one before; the first as it is."""
    return values.diff(dim=dim, prepend=torch.zeros_like(values.narrow(dim, 0, 1)))
