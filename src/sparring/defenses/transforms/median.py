"""Median smoothing (Xu, Evans & Qi 2018, arXiv:1704.01155)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.transforms.base import Transform
from sparring.defenses.transforms.padding import mirrored


@dataclass(frozen=True, kw_only=True)
class Median(Transform):
    """Every pixel becomes the median of the `size` x `size` window around it, borders mirrored.

    As SciPy's `median_filter`: of an even number of values the upper middle one, in a window that reaches one pixel
    farther up and left. The gradient goes to the pixel that was chosen.
    """

    paper: ClassVar[str] = "Xu, Evans & Qi, Feature Squeezing, NDSS 2018"

    size: int = 2

    def __post_init__(self) -> None:
        at_least("size", self.size, 2, whole=True)

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """The medians."""
        height, width = images.shape[2:]
        wide = mirrored(images, self.size // 2, self.size - 1 - self.size // 2)
        views = [wide[:, :, i : i + height, j : j + width] for i in range(self.size) for j in range(self.size)]
        if len(views) == 4:
            return _upper_median_of_four(*views)
        return torch.stack(views).kthvalue(len(views) // 2 + 1, dim=0).values


def _upper_median_of_four(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The third smallest: by comparisons of whole pictures, many times faster than sorting."""
    smaller = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    larger = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.maximum(smaller, larger)
