"""Images held in one array: layout, number range and size settled, converted slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sparring.errors import DataError
from sparring.loading.lazy import LazyImages
from sparring.loading.source import Wanted, centre_box

Array = np.ndarray[Any, Any]
_CHUNK = 256


def open_array(array: Array, rows: list[int], wanted: Wanted, what: str) -> LazyImages:
    """The images of `rows`: uint8 0-255 divided by 255, floats in [0, 1] kept, in the wanted size and channels.

    array: (N, H, W), (N, H, W, C) or (N, C, H, W). One channel is repeated where more are wanted. Resizing crops
    the centre to the wanted shape, then scales it (bilinear, antialiased). Raises `DataError` naming `what`.
    """
    last = channels_last(array.shape, wanted.channels, what)
    _check_numbers(array, rows, what)
    probe = _batch(array, rows[:1], last, wanted)

    def read(chosen: Sequence[int]) -> Tensor:
        return _batch(array, [rows[i] for i in chosen], last, wanted)

    _, channels, height, width = probe.shape
    return LazyImages(read, (len(rows), channels, height, width))


def channels_last(shape: tuple[int, ...], channels: int | None, what: str) -> bool:
    """Is an array of this shape laid out (N, H, W, C)? Where both readings fit it is (N, C, H, W), the house layout.

    Without `channels` pictures have one or three. Raises `DataError` for a shape that is neither.
    """
    if len(shape) == 3 and all(shape):
        return False
    known = {1, 3} if channels is None else {1, channels}
    if len(shape) == 4 and all(shape):
        if shape[1] in known:
            return False
        if shape[3] in known:
            return True
    expected = "1 or 3 channels" if channels is None else " or ".join(str(c) for c in sorted(known)) + " channels"
    raise DataError(
        f"{what}: images must have shape (N, H, W), (N, C, H, W) or (N, H, W, C) with {expected} and no empty "
        f"dimension, got {tuple(shape)}; transpose the array, or say channels= if there are others"
    )


def _check_numbers(array: Array, rows: list[int], what: str) -> None:
    if array.dtype == np.uint8:
        return
    if array.dtype.kind != "f":
        raise DataError(
            f"{what}: images must be uint8 from 0 to 255 or floats in [0, 1], got {array.dtype}; "
            "convert with .astype('uint8') or divide by the largest possible value"
        )
    low, high = np.inf, -np.inf
    for start in range(0, len(rows), _CHUNK):
        part = array[rows[start : start + _CHUNK]]
        if not np.isfinite(part).all():
            raise DataError(f"{what}: images hold NaN or infinity; replace or drop those images")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low < 0 or high > 1:
        fix = (
            "divide by 255 first"
            if low >= 0 and high <= 255
            else "store them before normalisation (sparring normalises inside the model: load_model(..., mean=, std=))"
        )
        raise DataError(f"{what}: float images must lie in [0, 1], these span [{low:g}, {high:g}]; {fix}")


def _batch(array: Array, rows: list[int], last: bool, wanted: Wanted) -> Tensor:
    part = np.ascontiguousarray(array[rows])
    if part.ndim == 3:
        part = part[:, None]
    elif last:
        part = np.ascontiguousarray(part.transpose(0, 3, 1, 2))
    scale = 255 if part.dtype == np.uint8 else 1
    images = torch.from_numpy(part.astype(np.float32)) / scale
    if wanted.channels is not None and wanted.channels != images.shape[1]:
        if images.shape[1] != 1:
            raise DataError(f"the images have {images.shape[1]} channels, channels={wanted.channels} was asked for")
        images = images.repeat(1, wanted.channels, 1, 1)
    return images if wanted.size is None else _resized(images, wanted.size)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    top, left, height, width = centre_box(images.shape[2], images.shape[3], size)
    centre = images[:, :, top : top + height, left : left + width]
    if (height, width) == size:
        return centre.contiguous()
    return interpolate(centre, size, mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
