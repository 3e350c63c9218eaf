"""What training does to a module besides steps: freezing, modes, optimizer, weights to save."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from sparring.errors import InputError
from sparring.hardening.ema import batch_norms
from sparring.hardening.recipe import Recipe


def freeze(module: nn.Module, patterns: tuple[str, ...]) -> None:
    """Parameters whose name matches a pattern take no gradient from now on.

    Raises `InputError` for a pattern that matches none: it would leave alone what was to be frozen.
    """
    named = dict(module.named_parameters())
    for pattern in patterns:
        matching = [name for name in named if fnmatch(name, pattern)]
        if not matching:
            known = ", ".join(list(named)[:4])
            raise InputError(
                f"freeze={pattern!r} matches no parameter; they are named {known}, ...: use * for any text"
            )
        for name in matching:
            named[name].requires_grad_(False)


def train_mode(module: nn.Module) -> None:
    """Training mode, but for layers with running statistics whose weights are all frozen: they stay as they are."""
    module.train()
    for layer in batch_norms(module):
        if is_frozen(layer):
            layer.eval()


def is_frozen(layer: nn.Module) -> bool:
    """Has it weights, and does none of them learn?"""
    own = list(layer.parameters())
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def optimizer_for(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer of what learns."""
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            weights, lr=recipe.peak, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.AdamW(weights, lr=recipe.peak, weight_decay=recipe.weight_decay, fused=True)


def plain_state(module: nn.Module) -> dict[str, Any]:
    """The weights, contiguous and apart from each other, as safetensors wants them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
