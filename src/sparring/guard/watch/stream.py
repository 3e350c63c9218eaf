"""One client's stream: what each image says against those before it, and the evidence that has gathered.

Every sign is a yes or no whose rate in benign traffic is known; CUSUM (Page 1954) adds up how much likelier an attack
makes what is seen, and never falls below zero, so that an attack counts from where it begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

WINDOW = 128
"""Images of one client that a new one is compared with."""
MOST = WINDOW + 32
SAME = 2e-5
"""Thumbnails nearer than this (root mean square) are one image sent again: a retry, not a probe."""
STRAIGHT = 0.95
"""Cosine of successive updates from which they count as one line."""
HALF = (0.4, 0.6)
"""Ratio of successive updates on one line that is a bisection's."""
RARE = 0.002
"""No rate in benign traffic is believed to be lower."""
FINE = 0.06
"""Share of a cluster's extent below which a step counts as fine."""
LIKELY = {
    "low_margin": 0.75,
    "rough": 0.35,
    "flagged": 0.35,
    "duplicate": 0.9,
    "blinded": 0.5,
    "search": 0.55,
    "fine": 0.4,
    "flip": 0.3,
    "bisect": 0.5,
}
"""The signs, and how often an attack is taken to show them.

Of a new scene: its margin is lower, or its calm parts are rougher, than nearly all benign images'; a detector flags it;
it repeats an earlier one; only its embedding does. Of a near-duplicate whose nearest neighbour is not the image just
before it, as in a film: that neighbour is the one with the lowest margin of the whole cluster, as in random search; it
is very much nearer than the cluster is wide, as when a boundary is felt along. Of any near-duplicate: its label differs
from its neighbour's. Of any two steps: they lie on one line and halve, as in bisection.
"""


@dataclass(frozen=True)
class Seen:
    """One image as the watch sees it."""

    thumbnail: np.ndarray
    embedding: np.ndarray
    label: int
    margin: float
    rough: float
    flagged: bool


@dataclass(frozen=True)
class Limits:
    """What benign traffic looks like: `radius` of near-duplicates and cosine `angle` of embeddings that are; margin and
    roughness beyond which an image counts; and the rate of every sign, of "search" by the cluster's size.
    """

    radius: float
    angle: float
    margin: float
    rough: float
    rates: Mapping[str, float] = field(default_factory=dict)

    def gain(self, sign: str, shown: bool, now: float = 0.0) -> float:
        """How much likelier an attack makes this, as a logarithm. now: the sign's rate among all clients now, which
        counts where it is higher than it was.
        """
        benign = min(max(self.rates.get(sign, RARE), now, RARE), 0.95)
        likely = max(LIKELY[kind_of(sign)], min(0.98, 1.5 * benign))
        return math.log(likely / benign) if shown else math.log((1 - likely) / (1 - benign))


def kind_of(sign: str) -> str:
    """Without the size of the cluster: "search/3" is a "search"."""
    return sign.partition("/")[0]


@dataclass(eq=False)
class _Cluster:
    """Near-duplicates: the number of the first, its label, how many there are, and which has the lowest margin."""

    number: int
    label: int
    size: int = 0
    lowest: int = -1
    margin: float = math.inf

    def take(self, number: int, seen: Seen) -> None:
        margin = seen.margin if seen.label == self.label else -seen.margin
        self.size += 1
        if margin <= self.margin:
            self.lowest, self.margin = number, margin


@dataclass(eq=False)
class Stream:
    """What is kept of one client, and its evidence by kind of sign."""

    evidence: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LIKELY, 0.0))
    count: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        self._thumbs = self._embeds = np.zeros((0, 0), np.float32)
        self._numbers = np.zeros(0, np.int64)
        self._labels: list[int] = []
        self._clusters: list[_Cluster] = []
        self._gone = 0

    def observe(self, seen: Seen, limits: Limits) -> dict[str, bool]:
        """Take one image in; the signs that it could show, and whether it did."""
        here = self._room(seen)
        start = max(0, here - WINDOW)
        self._thumbs[here], self._embeds[here] = seen.thumbnail, seen.embedding
        self.count += 1
        gaps = self._gaps(start, here)
        near = int(gaps.argmin()) if len(gaps) else -1
        distance = float(gaps[near]) if len(gaps) else math.inf
        signs: dict[str, bool] = {}
        cluster = _Cluster(here + self._gone, seen.label)
        if distance < limits.radius:
            cluster = self._clusters[start + near]
        if distance >= SAME:
            signs = self._updates(here)
            if distance < limits.radius:
                signs |= self._of_repeated(seen, cluster, gaps, start, here)
            elif distance > 2 * limits.radius:
                signs |= self._of_new(seen, start, here, limits)
            cluster.take(here + self._gone, seen)
        self._labels.append(seen.label)
        self._clusters.append(cluster)
        self._numbers[here] = cluster.number
        return signs

    def add(self, signs: Mapping[str, bool], limits: Limits, now: Mapping[str, float] | None = None) -> None:
        """Let the signs of one image count."""
        for sign, shown in signs.items():
            kind = kind_of(sign)
            gain = limits.gain(sign, shown, 0.0 if now is None else now.get(sign, 0.0))
            self.evidence[kind] = max(0.0, self.evidence[kind] + gain)

    def _gaps(self, start: int, here: int) -> np.ndarray:
        """Root mean square distances to the rows before."""
        gap = self._thumbs[start:here] - self._thumbs[here]
        distances: np.ndarray = np.sqrt(np.einsum("ij,ij->i", gap, gap) / self._thumbs.shape[1])
        return distances

    def _of_new(self, seen: Seen, start: int, here: int, limits: Limits) -> dict[str, bool]:
        signs = {
            "low_margin": seen.margin < limits.margin,
            "rough": seen.rough > limits.rough,
            "flagged": seen.flagged,
            "duplicate": False,
        }
        if here > start:
            signs["blinded"] = bool((self._embeds[start:here] @ self._embeds[here]).max() > limits.angle)
        return signs

    def _of_repeated(self, seen: Seen, cluster: _Cluster, gaps: np.ndarray, start: int, here: int) -> dict[str, bool]:
        near = int(gaps.argmin())
        signs = {"duplicate": True, "flip": self._labels[start + near] != seen.label}
        if cluster.size > 1 and start + near < here - 1:
            size = min(cluster.size.bit_length() - 1, 6)
            signs[f"search/{size}"] = start + near + self._gone == cluster.lowest
            extent = gaps[self._numbers[start:here] == cluster.number].max()
            signs["fine"] = bool(gaps[near] < FINE * extent)
        return signs

    def _updates(self, here: int) -> dict[str, bool]:
        if here < 2:
            return {}
        last, before = self._thumbs[here] - self._thumbs[here - 1], self._thumbs[here - 1] - self._thumbs[here - 2]
        long, longer = math.sqrt(float(last @ last)), math.sqrt(float(before @ before))
        if min(long, longer) < SAME * math.sqrt(len(last)):
            return {}
        straight = abs(float(last @ before)) > STRAIGHT * long * longer
        return {"bisect": straight and HALF[0] < long / longer < HALF[1]}

    def _room(self, seen: Seen) -> int:
        """The next free row; the arrays grow to `MOST` rows and then forget the oldest."""
        here = len(self._labels)
        if here == MOST:
            gone = MOST - WINDOW
            for rows in (self._thumbs, self._embeds, self._numbers):
                rows[:WINDOW] = rows[gone:].copy()
            del self._labels[:gone], self._clusters[:gone]
            self._gone += gone
            return WINDOW
        if here == len(self._thumbs):
            size = min(MOST, max(8, 2 * here))
            self._thumbs = _grown(self._thumbs, size, len(seen.thumbnail))
            self._embeds = _grown(self._embeds, size, len(seen.embedding))
            self._numbers = np.append(self._numbers, np.zeros(size - here, np.int64))
        return here


def _grown(rows: np.ndarray, size: int, width: int) -> np.ndarray:
    more = np.zeros((size, width), np.float32)
    if len(rows):
        more[: len(rows)] = rows
    return more
