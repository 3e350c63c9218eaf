"""The pictures of broken images, checked before a browser decodes them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SMALL = 64  # below this many pixels a side, pixels are shown as squares instead of smeared


@dataclass(frozen=True)
class Shot:
    """A PNG picture as a data URI with its size."""

    source: str
    width: int
    height: int

    @property
    def pixelated(self) -> bool:
        """Whether to enlarge without smoothing."""
        return min(self.width, self.height) < _SMALL


def shot(encoded: str) -> Shot | None:
    """Decode and check a base64 PNG; None for anything else."""
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    if raw[:8] != _SIGNATURE or raw[12:16] != b"IHDR" or len(raw) < 24:
        return None
    width, height = int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")
    if not (width and height):
        return None
    return Shot(f"data:image/png;base64,{base64.b64encode(raw).decode('ascii')}", width, height)
