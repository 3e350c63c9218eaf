"""Pictures in and out: uploads read with care, and what is shown made large enough to be seen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from sparring.auditing.pictures import to_8bit
from sparring.errors import DataError
from sparring.loading.pictures import read_picture

SHOWN = 448
"""A shown picture is at least so wide and high, every pixel a square."""
UPLOAD = 30 * 2**20
"""Bytes of an upload."""


def read_upload(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """An uploaded or photographed picture, (1, C, H, W) of `shape`: the centre, scaled.

    Raises `DataError` with a message that names no path of this machine.
    """
    file = Path(path)
    try:
        if file.stat().st_size > UPLOAD:
            raise DataError(f"the picture is too large: {file.stat().st_size} bytes, at most {UPLOAD} are read")
        return read_picture(file, (shape[1], shape[2]), shape[0])[None]
    except OSError as error:
        raise DataError("the picture is no longer here: upload it again") from error
    except DataError as error:
        message = str(error).replace(f"the picture {file}", "the picture").replace(str(file), "the picture")
        raise DataError(message) from error


def encoded(pixels: np.ndarray) -> bytes:
    """PNG of uint8 pixels (H, W, 3): lossless, and quickly rather than as small as can be."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def shown(image: Tensor) -> np.ndarray:
    """An image (C, H, W) in [0, 1] as uint8 (H, W, 3), small ones enlarged by a whole factor without smoothing."""
    pixels = to_8bit(image if image.shape[0] == 3 else image[:1].expand(3, -1, -1)).permute(1, 2, 0).cpu().numpy()
    factor = max(1, -(-SHOWN // max(pixels.shape[:2])) if max(pixels.shape[:2]) < SHOWN // 2 else 1)
    return pixels.repeat(factor, 0).repeat(factor, 1)
