"""The one piece that every framework's bridge shares: torch's backward pass hands over to the framework's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import InputError

Pullback = Callable[[Tensor], Tensor]
LAYOUTS = ("NCHW", "NHWC")


class Foreign(nn.Module):
    """A differentiable function of another framework as a module of ours. A subclass writes `scores` and `traced`.

    layout: "NHWC" hands images over with their channels last. The framework computes in float32.
    """

    def __init__(self, layout: str) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise InputError(f'layout must be "NCHW" or "NHWC", got {layout!r}')
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), in their dtype and on their device."""
        given = images.to(torch.float32)
        if self.layout == "NHWC" and images.dim() == 4:
            given = given.permute(0, 2, 3, 1)
        given = given.contiguous()
        if given.requires_grad and torch.is_grad_enabled():
            scores: Tensor = _Through.apply(given, self.traced)  # type: ignore[no-untyped-call]
        else:
            scores = self.scores(given.detach())
        return scores.to(images)

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """What the function gives for float32 `images`, laid out as it wants them."""

    @abstractmethod
    def traced(self, images: Tensor) -> tuple[Tensor, Pullback]:
        """The same, and how a gradient of the scores becomes one of the images."""


class _Through(torch.autograd.Function):
    """Forward and backward are the framework's."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, traced: Callable[[Tensor], tuple[Tensor, Pullback]]) -> Tensor:
        """The scores; the way back is kept until the backward pass."""
        scores, ctx.pullback = traced(images.detach())
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The framework's vector-Jacobian product."""
        return ctx.pullback(grads[0].contiguous()), None
