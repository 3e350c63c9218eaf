"""The normalisation that timm and torchvision models carry in their own configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparring.model import Normalised


class Configured(nn.Module):
    """`inner` behind the mean and std that it was trained with, as its library says."""

    def __init__(self, inner: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], source: str) -> None:
        super().__init__()
        self.inner = Normalised(inner, mean, std)
        self._said = (
            f"normalised inside with mean {mean} and std {std}, read from {source}; mean=0, std=1 switch it off"
        )

    def remarks(self) -> tuple[str, ...]:
        """Which normalisation was read, and from where."""
        return (self._said,)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        output: Tensor = self.inner(images)
        return output


def configured(model: nn.Module, spec: str) -> nn.Module:
    """`model` with the normalisation of its own configuration around it; `model` itself where it has none.

    timm keeps it in the model's `pretrained_cfg`, torchvision in the transforms of its default weights, for models
    named as "torchvision.models:resnet50". Neither library is imported here.
    """
    own = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    found = _numbers(own)
    source = "the model's pretrained_cfg"
    if found is None:
        found, source = _of_torchvision(spec), "the transforms of torchvision's default weights"
    return model if found is None else Configured(model, *found, source)


def _of_torchvision(spec: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    place, _, name = spec.rpartition(":")
    library: Any = sys.modules.get("torchvision.models")
    if library is None or place.split(".")[:2] != ["torchvision", "models"]:
        return None
    try:
        return _numbers(library.get_model_weights(name).DEFAULT.transforms())
    except (AttributeError, ValueError, TypeError):
        return None


def _numbers(source: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    def get(key: str) -> Any:
        return source.get(key) if isinstance(source, Mapping) else getattr(source, key, None)

    mean, std = get("mean"), get("std")
    if mean is None or std is None:
        return None
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
