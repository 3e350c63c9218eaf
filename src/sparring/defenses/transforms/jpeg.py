"""JPEG compression as a defense (Dziugaite et al. 2016, arXiv:1608.00853; Guo et al. 2018, arXiv:1711.00117)."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.transforms.base import Transform
from sparring.errors import InputError, MissingExtraError

ALONE = 2**14
"""Pixels per thread below which another thread costs more than it brings."""


@dataclass(frozen=True, kw_only=True)
class JPEG(Transform):
    """Encoded as a JPEG file by Pillow and decoded again, spread over the processor's cores.

    quality: 1 to 95 (Guo et al. use 75). Pictures of 1 or 3 channels are one file; others one grey file per channel.
    Backward the differentiable codec of kornia stands in (Reich et al. 2024; rounding by Shin & Song 2017), grey
    pictures as three equal channels. It needs the extra "transforms"; the forward pass does not.
    """

    gradient: ClassVar[str] = "surrogate"
    paper: ClassVar[str] = "Guo et al., Countering Adversarial Images using Input Transformations, ICLR 2018"

    quality: int = 75

    def __post_init__(self) -> None:
        at_least("quality", self.quality, 1, whole=True)
        if self.quality > 95:
            raise InputError(f"quality must be a whole number from 1 to 95, got {self.quality}")

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """What the decoder gives back."""
        n, channels, height, width = images.shape
        planes = images if channels in (1, 3) else images.reshape(n * channels, 1, height, width)
        pixels = (planes.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        decoded = np.empty_like(pixels)
        workers = min(len(pixels), _cores(), max(1, pixels.shape[0] * height * width // ALONE))
        edges = [len(pixels) * i // workers for i in range(workers + 1)]
        if workers == 1:
            self._recode(pixels, decoded, 0, len(pixels))
        else:
            with ThreadPoolExecutor(workers) as pool:  # Pillow's codec runs without the interpreter's lock
                list(pool.map(lambda a, b: self._recode(pixels, decoded, a, b), edges[:-1], edges[1:]))
        values = torch.from_numpy(decoded).to(images.device).permute(0, 3, 1, 2).to(images.dtype) / 255
        return values.reshape(images.shape).contiguous()

    def soft(self, images: Tensor, drawn: Any) -> Tensor:
        """Kornia's codec."""
        try:
            from kornia.enhance import jpeg_codec_differentiable
        except ImportError as error:
            raise MissingExtraError("the gradient of JPEG", "transforms") from error
        n, channels, height, width = images.shape
        colour = images if channels == 3 else images.reshape(n * channels, 1, height, width).expand(-1, 3, -1, -1)
        out: Tensor = jpeg_codec_differentiable(colour, images.new_tensor([float(self.quality)]))
        return out if channels == 3 else out.mean(1).reshape(images.shape)

    def _recode(self, pixels: np.ndarray[Any, Any], decoded: np.ndarray[Any, Any], first: int, last: int) -> None:
        from PIL import Image

        for i in range(first, last):
            file = io.BytesIO()
            picture = pixels[i] if pixels.shape[3] == 3 else pixels[i, :, :, 0]
            Image.fromarray(picture).save(file, "JPEG", quality=self.quality)
            with Image.open(file, formats=("JPEG",)) as opened:
                decoded[i] = np.asarray(opened).reshape(decoded.shape[1:])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
