"""Borders that mirror the picture, whatever its size."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(images: Tensor, before: int, after: int) -> Tensor:
    """Images (N, C, H, W) with `before` rows and columns more above and left and `after` below and right, mirrored
    with the edge repeated (d c b a | a b c d | d c b a), as often as it takes.
    """
    rows, columns = (_places(size, before, after, images.device) for size in images.shape[2:])
    return images.index_select(2, rows).index_select(3, columns)


def _places(size: int, before: int, after: int, device: torch.device) -> Tensor:
    places = torch.arange(-before, size + after, device=device) % (2 * size)
    return torch.where(places < size, places, 2 * size - 1 - places)
