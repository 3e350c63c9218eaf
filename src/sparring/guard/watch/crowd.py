"""Near-duplicates across clients: an attacker with many names is watched as if it had one."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

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
        self._coarse = np.zeros((0, 0), np.float32)
        self._thumbs = np.zeros((REMEMBERED, 0), np.float32)
        self._clients = [""] * REMEMBERED
        self._scenes = [""] * REMEMBERED
        self._next = 0
        self._names = itertools.count(1)
        self.streams: OrderedDict[str, Stream] = OrderedDict()

    def find(
        self, clients: Sequence[str], images: Sequence[Seen], limits: Limits, now: float
    ) -> list[tuple[str, Stream] | None]:
        """Take images in; for each the stream of its scene, if another client has sent a near-duplicate of it before
        (no mere copy).
        """
        thumbs = np.stack([seen.thumbnail for seen in images])
        if not len(self._coarse):
            self._begin(thumbs.shape[1])
        coarse = _averaged(thumbs, self._coarse.shape[1] - 1)
        nearest = (_beside(coarse, 1.0) @ self._coarse.T).argmax(1).tolist()
        exact = self._thumbs[nearest] - thumbs
        distances = np.sqrt(np.einsum("ij,ij->i", exact, exact) / thumbs.shape[1]).tolist()
        found = [
            self._scene(client, row) if SAME <= distance < limits.radius else ""
            for client, row, distance in zip(clients, nearest, distances, strict=True)
        ]
        self._keep(clients, thumbs, coarse, found)
        return [None if not scene else (scene, self._stream(scene, now)) for scene in found]

    def _begin(self, width: int) -> None:
        self._coarse = np.zeros((REMEMBERED, min(COARSE, width) + 1), np.float32)
        self._coarse[:, -1] = -np.inf  # no neighbour yet
        self._thumbs = np.zeros((REMEMBERED, width), np.float32)

    def _scene(self, client: str, row: int) -> str:
        """Of the near-duplicate in `row`; a new one where that was another client's."""
        if not self._clients[row]:
            return ""
        if not self._scenes[row] and self._clients[row] != client:
            return f"crowd-{next(self._names)}"
        return self._scenes[row]

    def _stream(self, scene: str, now: float) -> Stream:
        stream = self.streams.pop(scene, None) or Stream()
        stream.last = now
        self.streams[scene] = stream
        if len(self.streams) > SCENES:
            self.streams.popitem(last=False)
        return stream

    def _keep(self, clients: Sequence[str], thumbs: np.ndarray, coarse: np.ndarray, scenes: list[str]) -> None:
        for first in range(0, len(thumbs), REMEMBERED):
            rows = [(self._next + i) % REMEMBERED for i in range(len(thumbs[first : first + REMEMBERED]))]
            part = slice(first, first + len(rows))
            squares = np.einsum("ij,ij->i", coarse[part], coarse[part])
            self._coarse[rows], self._thumbs[rows] = _beside(coarse[part], -squares / 2), thumbs[part]
            for row, client, scene in zip(rows, clients[part], scenes[part], strict=True):
                self._clients[row], self._scenes[row] = client, scene
            self._next = (rows[-1] + 1) % REMEMBERED


def _beside(rows: np.ndarray, last: np.ndarray | float) -> np.ndarray:
    """One more column: products of rows with 1 and rows with half their square are the higher the nearer they are."""
    found = np.empty((len(rows), rows.shape[1] + 1), np.float32)
    found[:, :-1], found[:, -1] = rows, last
    return found


def _averaged(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows of length P as `width` numbers each: neighbours averaged where that divides, else the first of them."""
    n, length = rows.shape
    if length % width == 0:
        averaged: np.ndarray = rows.reshape(n, width, -1).mean(2)
        return averaged
    return rows[:, :width]
