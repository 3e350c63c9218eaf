"""Non-local means (Buades, Coll & Morel 2005), as feature squeezing uses it (Xu, Evans & Qi 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.transforms.base import Transform
from sparring.defenses.transforms.padding import mirrored
from sparring.errors import InputError

AT_ONCE = 2**15
"""Pixels of a channel."""


@dataclass(frozen=True, kw_only=True)
class NonLocalMeans(Transform):
    """Every pixel becomes the mean of the `search` x `search` pixels around it, weighted by how alike the `patch` x
    `patch` patches around them are: exp(-d²/h²) with the mean squared difference d² and h = `strength`/255.

    The defaults are the paper's 13-3-2 for small pictures (11-3-4 for ImageNet). Backward the weights are constant.
    """

    gradient: ClassVar[str] = "surrogate"
    paper: ClassVar[str] = "Buades, Coll & Morel, A Non-Local Algorithm for Image Denoising, CVPR 2005"

    search: int = 13
    patch: int = 3
    strength: float = 2.0

    def __post_init__(self) -> None:
        for name in ("search", "patch"):
            at_least(name, getattr(self, name), 1, whole=True)
            if getattr(self, name) % 2 == 0:
                raise InputError(f"{name} must be odd, so that it has a centre, got {getattr(self, name)}")
        at_least("strength", self.strength, 1e-3)

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """The weighted means, a few pictures at a time: what is at hand stays in the cache."""
        few = max(1, AT_ONCE // images[0, 0].numel())
        return torch.cat([self._means(part) for part in torch.split(images, few)]).clamp(0, 1)

    def _means(self, images: Tensor) -> Tensor:
        reach, rim = self.search // 2, self.patch // 2
        height, width = images.shape[2:]
        wide = mirrored(images, reach + rim, reach + rim)
        fixed = wide.detach()
        centre = fixed[:, :, reach : reach + height + 2 * rim, reach : reach + width + 2 * rim]
        scale = -((255 / self.strength) ** 2) / (self.patch**2 * images.shape[1])
        total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        for i in range(self.search):
            for j in range(self.search):
                other = fixed[:, :, i : i + height + 2 * rim, j : j + width + 2 * rim]
                far = (other - centre).square_()
                weight = _boxes(far if far.shape[1] == 1 else far.sum(1, keepdim=True), self.patch)
                weight.mul_(scale).exp_()
                shifted = wide[:, :, i + rim : i + rim + height, j + rim : j + rim + width]
                total = torch.addcmul(total, weight, shifted)
                weights += weight
        return total / weights

    def soft(self, images: Tensor, drawn: Any) -> Tensor:
        """The same means; `run` keeps the weights out of the graph."""
        return self.run(images, drawn)


def _boxes(values: Tensor, size: int) -> Tensor:
    """Sums over all `size` x `size` windows."""
    for dim in (2, 3):
        left = values.shape[dim] - size + 1
        total = values.narrow(dim, 0, left).clone()
        for shift in range(1, size):
            total += values.narrow(dim, shift, left)
        values = total
    return values
