"""The one piece that every framework's bridge shares: torch's backward pass hands over to the framework's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparring.errors import InputError

Pullback = Callable[[Tensor], Tensor]
LAYOUTS = ("NCHW", "NHWC")


class Foreign(nn.Module):
    """A differentiable function of another framework as a module of ours. A subclass writes `scores`, `traced`
    and `second`.

    layout: what the function takes, "NHWC" or "NCHW". A subclass is handed images (N, C, H, W) in float32 and turns
    them itself, where that costs least.
    """

    attacked_only = True

    def __init__(self, layout: str) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise InputError(f'layout must be "NCHW" or "NHWC", got {layout!r}')
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), in their dtype and on their device."""
        given = images.to(torch.float32).contiguous()
        if given.requires_grad and torch.is_grad_enabled():
            scores: Tensor = _Through.apply(given, self)  # type: ignore[no-untyped-call]
        else:
            scores = self.scores(given.detach())
        return scores.to(images)

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """What the function gives for float32 `images` (N, C, H, W)."""

    @abstractmethod
    def traced(self, images: Tensor) -> tuple[Tensor, Pullback]:
        """The same, and how a gradient of the scores becomes one of the images."""

    @abstractmethod
    def second(self, images: Tensor, grads: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients, with respect to `images` and `grads`, of `direction` times what `grads` becomes there."""


class _Through(torch.autograd.Function):
    """Forward and backward are the framework's."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, foreign: Foreign) -> Tensor:
        """The scores; the way back is kept until the backward pass."""
        ctx.foreign = foreign
        ctx.save_for_backward(images)
        scores, ctx.pullback = foreign.traced(images.detach())
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The framework's vector-Jacobian product."""
        if not torch.is_grad_enabled():
            return ctx.pullback(grads[0].contiguous()), None
        back: Tensor = _Back.apply(*ctx.saved_tensors, grads[0], ctx.pullback, ctx.foreign)  # type: ignore[no-untyped-call]
        return back, None


class _Back(torch.autograd.Function):
    """The vector-Jacobian product as something to be differentiated once more, for curvature."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grads: Tensor, pullback: Pullback, foreign: Foreign) -> Tensor:
        """The gradient of the images."""
        ctx.foreign = foreign
        ctx.save_for_backward(images, grads)
        return pullback(grads.detach().contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """What a change of it means for images and gradients of the scores."""
        images, given = (tensor.detach().contiguous() for tensor in ctx.saved_tensors)
        of_images, of_given = ctx.foreign.second(images, given, grads[0].contiguous())
        return of_images, of_given, None, None
