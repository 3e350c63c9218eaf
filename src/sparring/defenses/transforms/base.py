"""The one parent of all transforms: what is done to images before the model sees them, and its declared gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.errors import InputError
from sparring.problem import check_images
from sparring.rng import Streams, base_seed, digests

GRADIENTS = ("exact", "surrogate", "identity")
"""What a transform may offer an attacker who differentiates through it."""


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """Maps images (N, C, H, W) in [0, 1] to images of the same shape, each by itself.

    A subclass is a frozen dataclass that writes `run` and, where autograd through `run` is of no use, `soft`. Random
    transforms also write `draw`, so that the true pass and the differentiable one share their randomness.
    """

    gradient: ClassVar[str] = "exact"
    """What it offers an adaptive attacker: "exact", a smooth "surrogate", or only the "identity"."""
    random: ClassVar[bool] = False
    """Whether the same image comes out differently each time."""
    paper: ClassVar[str] = ""

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The transformed images, same shape and dtype, in [0, 1]. `generator` gives the seed of a random transform
        (seed 0 without one), which each image expands into draws of its own.

        Raises `InputError` unless `images` is a float batch in [0, 1].
        """
        checked(images)
        with torch.no_grad():
            return self.run(images, self.draw(images, streams_of(images, base_seed(generator), str(self))))

    def draw(self, images: Tensor, streams: Streams) -> Any:
        """The randomness of one pass over `images`; nothing for a deterministic transform."""
        del images, streams

    @abstractmethod
    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """The transform itself, with the randomness that `draw` gave."""

    def soft(self, images: Tensor, drawn: Any) -> Tensor:
        """What backward passes differentiate: here the transform itself."""
        return self.run(images, drawn)

    def passed(self, images: Tensor, drawn: Any, gradient: str = "declared") -> Tensor:
        """The transform's own output with a gradient: the "declared" one, or for any transform the "identity"
        (Athalye et al. 2018). Where gradients are off, just the output.
        """
        if not torch.is_grad_enabled():
            return self.run(images, drawn)
        if gradient == "declared" and self.gradient == "exact":
            return self.run(images, drawn)
        with torch.no_grad():
            exact = self.run(images, drawn)
        soft = self.soft(images, drawn) if gradient == "declared" and self.gradient == "surrogate" else images
        return exact + (soft - soft.detach())

    def __str__(self) -> str:
        """The form that `sparring.toml` reads: `jpeg:quality=75`."""
        from sparring.defenses.transforms.spec import format_transform

        return format_transform(self)


def checked(images: Tensor) -> None:
    """Raise `InputError` unless `images` is a batch of pictures (N, C, H, W) in [0, 1]."""
    check_images(images, (0.0, 1.0))
    if images.dim() != 4:
        raise InputError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")


def streams_of(images: Tensor, seed: int, purpose: str) -> Streams:
    """One stream per image, keyed by the image itself."""
    return Streams(seed, purpose, digests(images))


def share(name: str, value: float, low: float = 0.0, high: float = 1.0) -> None:
    """Raise `InputError` unless low < value <= high."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value <= high:
        raise InputError(f"{name} must be a number above {low:g} and at most {high:g}, got {value!r}")
