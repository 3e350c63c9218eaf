"""Picture files: PNG, JPEG and WebP to float tensors, with the size checked before anything is decoded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sparring.errors import DataError, InputError, SparringError
from sparring.loading.limits import MAX_PIXELS
from sparring.loading.paths import existing_file, kind_of, user_path
from sparring.loading.reason import reason
from sparring.loading.source import Size, centre_box, checked_size

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)
"""What Pillow raises for broken files. Warnings count where the caller turned them into errors."""
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """What a picture's header says: height and width as shown (EXIF orientation applied), and what kind it is."""

    height: int
    width: int
    grey: bool
    transparent: bool


def load_image(picture: str | Path, size: Size = None, channels: int = 3) -> Tensor:
    """One picture as float32 (1, C, H, W) in [0, 1]: a path, or the name of a packaged photograph.

    picture: PNG, JPEG or WebP file, or one of `sparring.loading.photos.PHOTOS` such as "chelsea" (a file of that
    name wins over a photograph only if written as a path, "./chelsea"). size: None keeps it; a number or (H, W)
    crops the centre to that shape and scales it (bilinear, antialiased). channels: 3, or 1 for luminance.
    The EXIF orientation is applied, transparency is laid over white, 16-bit grey keeps its precision, and of an
    animation the first frame counts. Raises `DataError` for a file that is missing, broken, of another format or
    larger than `MAX_PIXELS`; `InputError` for size and channels.

    >>> load_image("coffee", size=64).shape
    torch.Size([1, 3, 64, 64])
    """
    from sparring.loading.photos import PHOTOS, photo_path

    path = photo_path(str(picture)) if str(picture) in PHOTOS else user_path(picture)
    if kind_of(path) == "missing" and isinstance(picture, str) and not path.suffix and path.name == picture:
        photo_path(picture)  # raises: lists the names
    return read_picture(path, checked_size(size), channels)[None]


def read_header(path: Path) -> Header:
    """Size and kind without decoding the pixels. Raises as `load_image`."""
    with _opened(path) as image:
        turned = image.format != "PNG" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        return Header(height, width, image.mode in _GREY, image.has_transparency_data)


def read_picture(path: Path, size: tuple[int, int] | None, channels: int) -> Tensor:
    """One picture as float32 (C, H, W) in [0, 1]. Arguments and errors as `load_image`."""
    if channels not in (1, 3) or isinstance(channels, bool):
        raise InputError(f"pictures have channels 1 (grey) or 3 (colour), got channels={channels!r}")
    with _opened(path) as image:
        return as_tensor(image, size, channels)


def as_tensor(image: Image.Image, size: tuple[int, int] | None, channels: int) -> Tensor:
    """An opened picture as float32 (C, H, W) in [0, 1]. Whatever Pillow raises for a broken one goes through."""
    ImageOps.exif_transpose(image, in_place=True)
    plain = _plain(image, channels)
    if size is not None and size != (plain.height, plain.width):
        top, left, height, width = centre_box(plain.height, plain.width, size)
        plain = plain.crop((left, top, left + width, top + height))
        plain = plain.resize(size[::-1], Image.Resampling.BILINEAR)
    array = np.array(plain, dtype=np.float32)
    pixels = torch.from_numpy(array) / (1 if plain.mode == "F" else 255)
    planes = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    return planes.expand(channels, -1, -1).contiguous().clamp_(0, 1)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Mode L, RGB, or F holding [0, 1] for 16-bit grey; transparency over white."""
    if image.mode in _SIXTEEN_BITS:
        return Image.fromarray(np.asarray(image, dtype=np.float32) / np.float32(65535))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if channels == 1 else "RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture with its header checked; whatever goes wrong inside becomes a `DataError` naming the file."""
    existing_file(path, "the picture")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_large(path, f"{width} x {height} pixels")
            yield image
    except SparringError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a PNG, JPEG or WebP picture; convert it to PNG first") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error).split(",")[0]) from error
    except BROKEN as error:
        raise DataError(f"{path} is a broken picture: {reason(error)}; replace or remove it") from error


def _too_large(path: Path, found: str) -> DataError:
    return DataError(f"{path} is too large: {found}, at most {MAX_PIXELS} pixels are decoded; scale it down first")
