"""The architectures of the zoo that models.py does not have. Plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import models


def wong(hidden: int = 100) -> nn.Sequential:
    """Wong & Kolter's small net, 166,406 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


def tiny() -> nn.Sequential:
    """The architecture of `digits-cnn`, 22,954 parameters, for pictures of 8 x 8."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def resbn() -> nn.Sequential:
    """Residual, with batch norm and GELU, about 147,000 parameters; half the picture's resolution from the start."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 4, stride=2, padding=1),
        Residual(24),
        nn.Conv2d(24, 48, 2, stride=2),
        Residual(48),
        nn.BatchNorm2d(48),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(48 * 7 * 7, 38),
        nn.GELU(),
        nn.Linear(38, 10),
    )


class Quantised(nn.Module):
    """The first `share` of the channels clamped to [0, 3] and rounded to 16 levels; the rest pass through a ReLU.

    In training the gradient passes straight through the rounding; in use it is what autograd says: zero.
    """

    def __init__(self, share: float = 1.0, levels: int = 16, ceiling: float = 3.0) -> None:
        super().__init__()
        self.share, self.levels, self.ceiling = share, levels, ceiling

    def forward(self, x: Tensor) -> Tensor:
        first = round(self.share * x.shape[1])
        rough, fine = x[:, :first].clamp(0, self.ceiling), x[:, first:].relu()
        step = self.ceiling / (self.levels - 1)
        rounded = (rough / step).round() * step
        if self.training:
            rounded = rough + (rounded - rough).detach()
        return torch.cat([rounded, fine], 1)


def quantised(share: float) -> nn.Sequential:
    """`models.small` with its first activation quantised, in some channels or (share 1) in all."""
    net = models.small()
    net[1] = Quantised(share)
    return net


class Scaled(nn.Module):
    """The logits of a net times a factor: cross-entropy's gradients underflow, the decisions stay."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.factor
