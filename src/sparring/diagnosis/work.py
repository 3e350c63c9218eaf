"""A few images through a model at a time, and how much work a pass is, counted by hooks on one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparring.model import Model, frozen_eval, logits_of

T = TypeVar("T")
MOST, NUMBERS = 128, 2**20
"""Images at a time at most, and numbers that they hold: six photographs of 224 by 224 pixels in colour."""


def at_once(images: Tensor) -> int:
    """How many images of this size go through a model at a time, so that memory does not grow with their number."""
    return max(1, min(MOST, NUMBERS // images[0].numel()))


def by_parts(work: Callable[..., T], images: Tensor, *others: Tensor) -> list[T]:
    """What `work` gives for a few of the images (N, C, H, W), and what belongs to them, at a time."""
    size = at_once(images)
    return [work(*part) for part in zip(*(torch.split(x, size) for x in (images, *others)), strict=True)]


def answers(model: Model, images: Tensor) -> Tensor:
    """Logits (N, K) without a gradient, a few images at a time."""
    with torch.no_grad():
        return torch.cat(by_parts(lambda part: logits_of(model, part), images))


def forward_multiplications(model: nn.Module, image: Tensor) -> float:
    """Those of a forward pass on `image` (1, C, H, W): a value of a submodule without parts counts the weights it is
    made with, and eight.
    """
    total = float(image.numel())

    def count(module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal total
        weight = getattr(module, "weight", None)
        if isinstance(output, Tensor):
            each = weight[0].numel() if isinstance(weight, Tensor) and weight.dim() > 1 else 0
            total += output.numel() * (8 + each)

    leaves = [module for module in model.modules() if not any(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        with frozen_eval(model), torch.no_grad():
            logits_of(model, image)
    finally:
        for hook in hooks:
            hook.remove()
    return total
