"""How much work a pass through a model is, counted by hooks on one image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparring.model import frozen_eval, logits_of


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
