"""Pictures kept for review: flagged ones and close calls, within a size and for a time. Off unless named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from sparring.errors import InputError
from sparring.files import write_whole
from sparring.guard.pictures import encoded

FREE = 0.9
"""A full quarantine is emptied, oldest first, to this share."""


class Quarantine:
    """A folder of PNG files named by event. Nothing of the upload but its pixels, as the model saw them, is kept."""

    def __init__(self, folder: Path, most: int, days: float) -> None:
        self.folder, self.most, self.days = folder, most, days
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"[guard] quarantine: cannot make {folder}: {error.strerror}") from None
        self._size = sum(path.stat().st_size for path in self._files())

    def put(self, key: str, image: Tensor) -> bool:
        """Keep one image (C, H, W); False where the disk does not take it."""
        data = encoded(image)
        try:
            write_whole(self.path(key), data)
        except InputError:
            return False
        self._size += len(data)
        if self._size > self.most:
            self.tidy()
        return True

    def get(self, key: str) -> bytes | None:
        """The PNG of an event, if it is still there."""
        path = self.path(key)
        return path.read_bytes() if path.is_file() else None

    def path(self, key: str) -> Path:
        """Where the picture of an event lies; the key is hexadecimal with a position behind it."""
        if not key.replace("-", "").isalnum():
            raise InputError(f"no event has the key {key!r}")
        return self.folder / f"{key}.png"

    def tidy(self, now: float | None = None) -> int:
        """Remove what is too old, then the oldest until the rest fits; returns how many went."""
        now = time.time() if now is None else now
        files = sorted(
            ((path.stat().st_mtime, path.stat().st_size, path) for path in self._files()), key=lambda f: f[0]
        )
        size, gone = sum(file[1] for file in files), 0
        full = size > self.most
        for at, own, path in files:
            if now - at > self.days * 86400 or (full and size > FREE * self.most):
                path.unlink(missing_ok=True)
                size, gone = size - own, gone + 1
        self._size = size
        return gone

    def _files(self) -> Iterator[Path]:
        return self.folder.glob("*.png")
