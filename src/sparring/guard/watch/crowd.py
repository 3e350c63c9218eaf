"""Near-duplicates across clients: an attacker with many names is watched as if it had one."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import numpy as np

from sparring.guard.watch.stream import SAME, Limits, Seen, Stream

REMEMBERED = 2048
"""Images of all clients that a new one is compared with."""
SCENES = 64
COARSE = 64
"""Numbers by which neighbours are sought before their thumbnails are compared."""


class Crowd:
    """The last images of everyone. A scene that two clients sent becomes a stream of its own."""

    def __init__(self) -> None:
        self._coarse = np.zeros((REMEMBERED, 0), np.float32)
        self._squares = np.full(REMEMBERED, np.inf, np.float32)
        self._thumbs = np.zeros((REMEMBERED, 0), np.float16)
        self._clients = [""] * REMEMBERED
        self._scenes = [""] * REMEMBERED
        self._next = 0
        self._names = itertools.count(1)
        self.streams: OrderedDict[str, Stream] = OrderedDict()

    def find(self, client: str, seen: Seen, limits: Limits, now: float) -> tuple[str, Stream] | None:
        """Take an image in; the stream of its scene, if another client has sent a near-duplicate (no mere copy)."""
        if not self._coarse.shape[1]:
            self._begin(len(seen.thumbnail))
        coarse = _averaged(seen.thumbnail, self._coarse.shape[1])
        near, scene = self._nearest(coarse, seen.thumbnail, limits.radius), ""
        if near >= 0:
            scene = self._scenes[near]
            if not scene and self._clients[near] != client:
                scene = f"crowd-{next(self._names)}"
        self._keep(client, seen, coarse, scene)
        if not scene:
            return None
        stream = self.streams.pop(scene, None) or Stream()
        stream.last = now
        self.streams[scene] = stream
        if len(self.streams) > SCENES:
            self.streams.popitem(last=False)
        return scene, stream

    def _begin(self, width: int) -> None:
        self._coarse = np.zeros((REMEMBERED, min(COARSE, width)), np.float32)
        self._thumbs = np.zeros((REMEMBERED, width), np.float16)

    def _nearest(self, coarse: np.ndarray, thumbnail: np.ndarray, radius: float) -> int:
        """A near-duplicate's row; -1 where there is none, or only a copy of this very image."""
        squares = self._squares - 2 * (self._coarse @ coarse) + coarse @ coarse
        row = int(squares.argmin())
        if not np.isfinite(squares[row]) or not self._clients[row]:
            return -1
        gap = self._thumbs[row].astype(np.float32) - thumbnail
        distance = float(np.sqrt(gap @ gap / len(gap)))
        return row if SAME <= distance < radius else -1

    def _keep(self, client: str, seen: Seen, coarse: np.ndarray, scene: str) -> None:
        at = self._next
        self._coarse[at], self._squares[at], self._thumbs[at] = coarse, coarse @ coarse, seen.thumbnail
        self._clients[at], self._scenes[at] = client, scene
        self._next = (at + 1) % REMEMBERED


def _averaged(row: np.ndarray, width: int) -> np.ndarray:
    """A row of length P as `width` numbers: neighbours averaged where that divides, else the first of them."""
    if len(row) % width == 0:
        averaged: np.ndarray = row.reshape(width, -1).mean(1)
        return averaged
    return row[:width]
