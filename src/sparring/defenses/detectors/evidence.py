"""What detectors look at: a model's logits on the images and on further views of them, and its inner features, all from
one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import InputError, UnsupportedError, unknown
from sparring.model import Model, logits_of

INPUT = ":input"
"""A layer's name with this behind it means what goes into the layer, not what comes out."""
ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardswish,
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of M images: the logits (M, K), the logits of every further view, and features (M, F) by layer."""

    images: Tensor
    logits: Tensor
    views: tuple[Tensor, ...]
    features: dict[str, Tensor]


def gathered(model: Model, images: Tensor, views: Sequence[Tensor], layers: Sequence[str]) -> Evidence:
    """Evidence on `images` (M, C, H, W): one call of the model for images and views together."""
    with watched(model, layers) as seen:
        logits = logits_of(model, torch.cat([images, *views]) if views else images)
    first, *others = logits.split(len(images))  # type: ignore[no-untyped-call]
    return Evidence(images, first, tuple(others), {name: pooled(seen[name][: len(images)]) for name in layers})


@contextmanager
def watched(model: Model, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While the block runs, what these layers take in or give out is kept, by name."""
    seen: dict[str, Tensor] = {}
    if layers and not isinstance(model, nn.Module):
        raise UnsupportedError("this detector looks at a model's layers, so the model must be a torch.nn.Module")
    hooks = []
    try:
        for layer in layers:
            hooks.append(_hook(model, layer, seen))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _hook(model: Any, layer: str, seen: dict[str, Tensor]) -> Any:
    name = layer.removesuffix(INPUT)
    known = dict(model.named_modules())
    if name not in known:
        raise InputError(unknown("layer", name, [known_name for known_name in known if known_name]))
    if layer.endswith(INPUT):
        return known[name].register_forward_pre_hook(lambda _, inputs: seen.__setitem__(layer, inputs[0]))
    return known[name].register_forward_hook(lambda _, inputs, output: seen.__setitem__(layer, output))


def pooled(values: Tensor) -> Tensor:
    """Features (M, F): the mean over places for maps (Lee et al. 2018), flattened otherwise."""
    return values.flatten(2).mean(2) if values.dim() > 2 else values.flatten(1)


def penultimate(model: Model) -> str:
    """What goes into the model's last linear layer. Raises `UnsupportedError` where there is none."""
    linear = [name for name, module in _modules(model) if isinstance(module, nn.Linear)]
    if not linear:
        raise UnsupportedError("the model has no linear layer whose input could be watched: name one, layer='...'")
    return linear[-1] + INPUT


def activations(model: Model) -> tuple[str, ...]:
    """The activation layers, by name. Raises `UnsupportedError` where the model has none as modules."""
    names = tuple(name for name, module in _modules(model) if isinstance(module, ACTIVATIONS))
    if not names:
        raise UnsupportedError("the model has no activation layers (nn.ReLU, ...) that could be watched")
    return names


def _modules(model: Model) -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise UnsupportedError("this detector looks at a model's layers, so the model must be a torch.nn.Module")
    return [(name, module) for name, module in model.named_modules() if name]
