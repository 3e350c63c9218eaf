"""Fingerprints of images: a small grey thumbnail, a projected embedding, and how rough the calmest parts are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, normalize

SIDE = 16
"""Of a thumbnail, at most: low-pass enough to forget single pixels, fine enough to see a square move."""
WIDTH = 32
"""Numbers of a projected embedding."""
FINE = 64
"""Larger images are brought to this side before their roughness is read."""


@dataclass(frozen=True, eq=False)
class Prints:
    """Of N images: thumbnails (N, P) and embeddings (N, E), float32, and roughness (N,)."""

    thumbnails: np.ndarray
    embeddings: np.ndarray
    rough: np.ndarray


def thumbnails(images: Tensor) -> np.ndarray:
    """Grey, averaged to at most `SIDE` x `SIDE`, as float32 rows in [0, 1]."""
    grey = _grey(images)
    side = (min(SIDE, grey.shape[2]), min(SIDE, grey.shape[3]))
    rows: np.ndarray = adaptive_avg_pool2d(grey, side).flatten(1).numpy()
    return rows


def projected(features: Tensor) -> np.ndarray:
    """Unit rows (N, `WIDTH`): a fixed random projection keeps angles (Johnson & Lindenstrauss 1984)."""
    units: np.ndarray = normalize(features.float() @ _directions(features.shape[1])).numpy()
    return units


def roughness(images: Tensor) -> np.ndarray:
    """The standard deviation inside 5 x 5 windows, at the calmest tenth of the image: what noise leaves nowhere calm.

    A picture's flat parts are as rough as its camera's noise, whatever its texture elsewhere.
    """
    grey = _grey(images)
    if max(grey.shape[2:]) > FINE:
        grey = adaptive_avg_pool2d(grey, (min(FINE, grey.shape[2]), min(FINE, grey.shape[3])))
    window = min(5, *grey.shape[2:])
    mean, square = avg_pool2d(torch.cat([grey, grey * grey]), window, 2).chunk(2)
    spread = (square - mean * mean).clamp_min(0).flatten(1).sqrt()
    rank = max(1, spread.shape[1] // 10)
    found: np.ndarray = spread.kthvalue(rank, 1).values.numpy()
    return found


def _grey(images: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else images.mean(1, keepdim=True)


@cache
def _directions(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randn((width, WIDTH), generator=generator) / math.sqrt(WIDTH)


def rounded(prints: Prints) -> Prints:
    """The prints as the database keeps them, so that every replica computes with the same numbers."""
    return Prints(
        prints.thumbnails.astype(np.float16).astype(np.float32),
        prints.embeddings.astype(np.float16).astype(np.float32),
        prints.rough,
    )


def packed(rows: np.ndarray) -> list[bytes]:
    """Rows of prints as half floats."""
    return [row.tobytes() for row in rows.astype("<f2")]


def unpacked(data: bytes) -> np.ndarray:
    """What `packed` stored."""
    row: np.ndarray = np.frombuffer(data, dtype="<f2").astype(np.float32)
    return row
