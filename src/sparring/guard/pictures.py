"""Uploaded pictures: PNG, JPEG and WebP to tensors, with everything that can be refused refused before decoding."""

from __future__ import annotations

import re
from io import BytesIO

from PIL import Image
from torch import Tensor

from sparring.guard.refusal import RefusedError
from sparring.loading.pictures import BROKEN, as_tensor

MAGIC = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"RIFF", "WEBP"))
NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A JPEG marker, among data in which 0xff is followed by 0, a restart marker or padding."""
TRAILING = 64
"""Bytes of padding behind a JPEG's end that cameras are known to write."""


def decoded(data: bytes, shape: tuple[int, int, int], pixels_most: int) -> Tensor:
    """One picture as float32 of `shape` (C, H, W) in [0, 1]; a larger one is cropped and scaled as in loading.

    Raises `RefusedError`: 415 for another format, 413 for more than `pixels_most` pixels, 400 for a broken picture, an
    animation, or one with something else behind its end.
    """
    kind = next((name for magic, name in MAGIC if data.startswith(magic)), None)
    if kind is None or (kind == "WEBP" and data[8:12] != b"WEBP"):
        raise RefusedError(415, "format", "the picture must be PNG, JPEG or WebP")
    try:
        with Image.open(BytesIO(data), formats=(kind,)) as image:
            width, height = image.size
            if width * height > pixels_most:
                raise RefusedError(413, "pixels", f"the picture has more than {pixels_most} pixels")
            if getattr(image, "n_frames", 1) != 1:
                raise RefusedError(400, "animation", "the picture is an animation: send one frame")
            if _carries_more(kind, data):
                raise RefusedError(400, "polyglot", "the picture is followed by something else")
            return as_tensor(image, shape[1:], shape[0])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedError(413, "pixels", f"the picture has more than {pixels_most} pixels") from error
    except BROKEN as error:
        raise RefusedError(400, "broken", "the picture is broken or truncated") from error


def encoded(image: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as PNG, grey or colour."""
    pixels = (image * 255).round().byte().cpu().numpy()
    stream = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def _carries_more(kind: str, data: bytes) -> bool:
    """Does something other than padding follow the picture's own end? What metadata carries is never kept."""
    if kind == "WEBP":
        size = int.from_bytes(data[4:8], "little")
        return len(data) > 8 + size + size % 2
    if kind == "PNG":
        return _png_end(data) != len(data)
    behind = data[_jpeg_end(data) :]
    return len(behind) > TRAILING or bool(behind.strip(b"\x00\xff\n\r "))


def _png_end(data: bytes) -> int:
    """Where the chunk IEND ends; -1 where the chunks do not add up."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        at += 12 + size
        if name == b"IEND":
            return at
    return -1


def _jpeg_end(data: bytes) -> int:
    """Behind the first end-of-image marker that belongs to the picture itself, not to a thumbnail in its metadata."""
    at = 2
    while (found := NEXT.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            return at
        if at + 2 > len(data):
            break
        at += int.from_bytes(data[at : at + 2], "big")  # behind a scan's header comes its data, which NEXT passes over
    return len(data)
