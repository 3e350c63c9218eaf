"""Bilinear resampling of a batch in which every picture gets a size of its own, as two matrix products."""

from __future__ import annotations

import torch
from torch import Tensor


def resampler(size: int, frame: int, to: Tensor, offset: Tensor) -> Tensor:
    """Matrices (N, frame, size) that resize a side of `size` pixels to `to` (N,) pixels, placed at `offset` (N,) in a
    frame of zeros. Half-pixel centres, edges repeated, no anti-aliasing: as `interpolate(mode="bilinear")`.
    """
    place = torch.arange(frame, dtype=to.dtype, device=to.device) - offset[:, None]
    centre = ((place + 0.5) * size / to[:, None] - 0.5).clamp(0, size - 1)
    inside = (place >= 0) & (place < to[:, None])
    return _tents(centre, size) * inside[:, :, None]


def back_again(size: int, frame: int, to: Tensor) -> Tensor:
    """Matrices (N, size, frame) that resize a side from its first `to` (N,) of `frame` pixels to `size`."""
    place = torch.arange(size, dtype=to.dtype, device=to.device)
    centre = torch.minimum(((place + 0.5) * to[:, None] / size - 0.5).clamp_min(0), to[:, None] - 1)
    return _tents(centre, frame)


def apply(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows (N, H', H) and columns (N, W', W) applied to images (N, C, H, W)."""
    resized = rows[:, None] @ images @ columns[:, None].transpose(2, 3)
    return resized.clamp(0, 1)


def _tents(centre: Tensor, size: int) -> Tensor:
    source = torch.arange(size, dtype=centre.dtype, device=centre.device)
    return (1 - (centre[:, :, None] - source).abs()).clamp_min(0)
