"""Blur with a Gaussian: the plainest low-pass filter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from sparring.attacks.base import at_least
from sparring.defenses.transforms.base import Transform
from sparring.defenses.transforms.padding import mirrored


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Transform):
    """Convolution with a Gaussian of standard deviation `sigma` pixels, cut off at four of them, borders mirrored."""

    paper: ClassVar[str] = "Gonzalez & Woods, Digital Image Processing (a linear filter, as SciPy's gaussian_filter)"

    sigma: float = 1.0

    def __post_init__(self) -> None:
        at_least("sigma", self.sigma, 1e-3)
        at_least("64 - sigma", 64 - self.sigma, 0)

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """Rows, then columns."""
        reach = math.ceil(4 * self.sigma - 0.5)
        places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-0.5 * (places / self.sigma) ** 2)
        kernel = kernel / kernel.sum()
        n, channels, height, width = images.shape
        planes = mirrored(images, reach, reach).reshape(n * channels, 1, height + 2 * reach, width + 2 * reach)
        blurred = conv2d(conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
        return blurred.reshape(images.shape).clamp(0, 1)
