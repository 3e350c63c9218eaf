"""Fingerprints of images: a small grey thumbnail, a projected embedding, and how rough the calmest parts are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

SIDE = 16
"""Of a thumbnail, at most: low-pass enough to forget single pixels, fine enough to see a square move."""
HALF = np.dtype("<f2")
WIDTH = 32
"""Numbers of a projected embedding."""
FINE = 64
"""Larger images are brought to this side before anything is read from them."""
WINDOW = 5
"""Side of the windows in which roughness is read."""


@dataclass(frozen=True, eq=False)
class Prints:
    """Of N images: thumbnails (N, P) and embeddings (N, E), half floats as the database keeps them, so that every
    replica computes with the same numbers; and roughness (N,).
    """

    thumbnails: np.ndarray
    embeddings: np.ndarray
    rough: np.ndarray


def thumbnails(images: Tensor) -> np.ndarray:
    """Grey, averaged to at most `SIDE` x `SIDE`, as rows in [0, 1]."""
    grey = _grey(images)
    rows, columns = (_averages(side, min(SIDE, side)) for side in grey.shape[1:])
    found: np.ndarray = (rows @ (grey @ columns.T)).flatten(1).numpy().astype(HALF)
    return found


def projected(features: Tensor) -> np.ndarray:
    """Unit rows (N, `WIDTH`): a fixed random projection keeps angles (Johnson & Lindenstrauss 1984)."""
    found: np.ndarray = normalize(features.float() @ _directions(features.shape[1])).numpy().astype(HALF)
    return found


def roughness(images: Tensor) -> np.ndarray:
    """The standard deviation inside 5 x 5 windows, at the calmest tenth of the image: what noise leaves nowhere calm.

    A picture's flat parts are as rough as its camera's noise, whatever its texture elsewhere.
    """
    grey = _grey(images)
    rows, columns = (_windows(side, min(WINDOW, *grey.shape[1:])) for side in grey.shape[1:])
    mean, square = (rows @ (plane @ columns.T) for plane in (grey, grey * grey))
    spread = (square - mean * mean).flatten(1).numpy()
    rank = max(1, spread.shape[1] // 10) - 1
    found: np.ndarray = np.sqrt(np.maximum(np.partition(spread, rank, 1)[:, rank], 0))
    return found


def _grey(images: Tensor) -> Tensor:
    """Planes (N, H, W) of at most `FINE` on a side."""
    grey = images if images.shape[1] == 1 else images.mean(1, keepdim=True)
    if max(grey.shape[2:]) > FINE:
        grey = adaptive_avg_pool2d(grey, (min(FINE, grey.shape[2]), min(FINE, grey.shape[3])))
    return grey[:, 0]


@cache
def _averages(n: int, parts: int) -> Tensor:
    """(parts, n): products with it are means over `parts` equal stretches, which share what does not divide."""
    found = torch.zeros((parts, n))
    for i in range(parts):
        first, last = i * n // parts, -(-(i + 1) * n // parts)
        found[i, first:last] = 1 / (last - first)
    return found


@cache
def _windows(n: int, width: int) -> Tensor:
    """(windows, n): products with it are means over windows of `width`, two apart."""
    found = torch.zeros(((n - width) // 2 + 1, n))
    for i, row in enumerate(found):
        row[2 * i : 2 * i + width] = 1 / width
    return found


@cache
def _directions(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randn((width, WIDTH), generator=generator) / math.sqrt(WIDTH)


def packed(rows: np.ndarray) -> list[bytes]:
    """Rows of half floats as bytes."""
    data, width = rows.tobytes(), rows.shape[1] * rows.itemsize
    return [data[first : first + width] for first in range(0, len(data), width)]


def unpacked(data: bytes) -> np.ndarray:
    """What `packed` stored."""
    row: np.ndarray = np.frombuffer(data, dtype=HALF).astype(np.float32)
    return row
