"""How much a file may ask of us. Checked against what its header declares, before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from sparring.errors import DataError

MAX_PIXELS = 64_000_000
"""Largest picture, height x width."""
MAX_BYTES = 8 * 2**30
"""Largest array or archive, unpacked."""
EAGER_BYTES = 256 * 2**20
"""Sets up to this size, as float32, are loaded at once; larger ones are decoded on demand."""


def check_bytes(path: Path, what: str, shape: Sequence[int], itemsize: int = 1) -> int:
    """Bytes of an array of this shape; `DataError` if that is more than `MAX_BYTES`."""
    if any(extent < 0 for extent in shape):
        raise DataError(f"{path}: {what} declares the shape {tuple(shape)}; a shape has no negative numbers")
    size = prod(shape) * itemsize
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: {what} declares the shape {tuple(shape)}, {size} bytes unpacked; at most {MAX_BYTES} are read. "
            "Cut the set into smaller files, or store it as a folder of pictures, which is read piece by piece"
        )
    return size
