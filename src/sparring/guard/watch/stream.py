"""One client's stream: what each image says against those before it, and the evidence that has gathered.

Every sign is a yes or no whose rate in benign traffic is known; CUSUM (Page 1954) adds up how much likelier an attack
makes what is seen, and never falls below zero, so that an attack counts from where it begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

WINDOW = 128
"""Images of one client that a new one is compared with."""
MOST = WINDOW + 32
SAME = 2e-5
"""Thumbnails nearer than this (root mean square) are one image sent again: a retry, not a probe."""
ROUNDING = 1e-3
"""Of squared distances between thumbnails by way of a product, at most."""
STRAIGHT = 0.95
"""Cosine of successive updates from which they count as one line."""
HALF = (0.4, 0.6)
"""Ratio of successive updates on one line that is a bisection's."""
LATER = np.triu(np.ones((MOST - WINDOW, MOST - WINDOW), bool))
"""Which of the new images are no earlier than which, so that none is its own neighbour."""
RECENT = 4
"""A film's nearest neighbours are younger than this many images."""
RARE = 0.002
"""No rate in benign traffic is believed to be lower."""
LIKELY = {
    "low_margin": 0.9,
    "rough": 0.35,
    "flagged": 0.35,
    "duplicate": 0.9,
    "blinded": 0.5,
    "search": 0.55,
    "hub": 0.6,
    "flip": 0.3,
    "bisect": 0.5,
}
"""The signs, and how often an attack is taken to show them.

Of a new scene: its margin is lower, or its calm parts are rougher, than nearly all benign images'; a detector flags it;
it repeats an earlier one; only its embedding does. Of a near-duplicate whose nearest neighbour is not the image just
before it, as in a film: that neighbour is the one with the lowest margin of the whole cluster, as in random search; it
is the same as the last image's, a hub from which queries go out. Of any near-duplicate: its label differs from its
neighbour's. Of any two steps: they lie on one line and halve, as in bisection.
"""


class Seen(NamedTuple):
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
    roughness beyond which an image counts; and the rate of every sign, of "search" by the cluster's size and
    the neighbour's age.
    """

    radius: float
    angle: float
    margin: float
    rough: float
    rates: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def weights(self) -> Weights:
        """What each sign of one image adds to the evidence."""
        return Weights({sign: _weight(sign, rate) for sign, rate in self.rates.items()})

    def drifted(self, now: Mapping[str, float]) -> Weights:
        """`weights` while signs are shown at other rates `now`: what most clients show says little of one."""
        higher = {sign: rate for sign, rate in now.items() if rate > self.rates.get(sign, RARE)}
        return Weights({**self.weights, **{sign: _weight(sign, rate) for sign, rate in higher.items()}})


class Weights(dict[str, tuple[str, float, float]]):
    """By sign: its kind, and how much likelier an attack makes it, as a logarithm, where it is not shown and where it
    is. A sign that was never seen in benign traffic counts as the rarest.
    """

    def __missing__(self, sign: str) -> tuple[str, float, float]:
        self[sign] = found = _weight(sign, RARE)
        return found


def _weight(sign: str, rate: float) -> tuple[str, float, float]:
    kind = sign.partition("/")[0]  # "search/3 late" is a "search": the rest only decides the rate
    benign = min(max(rate, RARE), 0.95)
    likely = max(LIKELY[kind], min(0.98, 1.5 * benign))
    return kind, math.log((1 - likely) / (1 - benign)), math.log(likely / benign)


@dataclass(eq=False)
class _Cluster:
    """Near-duplicates: the first one's label, how many there are, which has the lowest margin, and the last one's
    nearest neighbour.
    """

    label: int
    size: int = 0
    lowest: int = -1
    hub: int = -1
    margin: float = math.inf

    def take(self, number: int, seen: Seen) -> None:
        margin = seen.margin if seen.label == self.label else -seen.margin
        self.size += 1
        if margin <= self.margin:
            self.lowest, self.margin = number, margin


class _Geometry(NamedTuple):
    """Of new rows: squared distances to all rows, the nearest and how far it is, the highest cosine of embeddings; and
    of the last two steps, whether the second halves the first on its line, None where one of them does not move.
    """

    gaps: np.ndarray
    near: list[int]
    distances: list[float]
    cosines: list[float]
    halving: list[bool | None]


@dataclass(eq=False)
class Stream:
    """What is kept of one client, and its evidence by kind of sign."""

    evidence: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LIKELY, 0.0))
    count: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        self._thumbs = self._embeds = np.zeros((0, 0), np.float32)
        self._squares = np.zeros(MOST, np.float32)
        self._labels: list[int] = []
        self._clusters: list[_Cluster] = []
        self._gone = 0

    def observe(self, images: Sequence[Seen], limits: Limits) -> list[dict[str, bool]]:
        """Take images in, in order; for each the signs that it could show, and whether it did."""
        found = []
        for first in range(0, len(images), MOST - WINDOW):
            part = images[first : first + MOST - WINDOW]
            start = self._room(part)
            geometry = self._geometry(start, len(part), limits.radius)
            found += [self._one(seen, start + i, i, geometry, limits) for i, seen in enumerate(part)]
        self.count += len(images)
        return found

    def add(self, signs: Mapping[str, bool], weights: Weights) -> None:
        """Let the signs of one image count."""
        evidence = self.evidence
        for sign, shown in signs.items():
            kind, absent, present = weights[sign]
            evidence[kind] = max(0.0, evidence[kind] + (present if shown else absent))

    def _geometry(self, start: int, n: int, radius: float) -> _Geometry:
        """Of the `n` rows from `start` on: their nearest earlier rows, the likest embeddings, the last two steps."""
        end = start + n
        new, rows, squares = self._thumbs[start:end], self._thumbs[:end], self._squares[:end]
        gaps = new @ rows.T
        gaps *= -2
        gaps += squares
        gaps += squares[start:, None]
        cosines = self._embeds[start:end] @ self._embeds[:end].T
        if n == 1:
            gaps[0, start], cosines[0, start] = np.inf, -1.0
        else:
            later = LATER[:n, :n]
            gaps[:, start:][later], cosines[:, start:][later] = np.inf, -1.0
        near: list[int] = gaps.argmin(1).tolist()
        least = [max(0.0, float(gaps[i, row])) for i, row in enumerate(near)]
        for i, gap in enumerate(least):
            if gap < (2 * radius) ** 2 * rows.shape[1]:  # products of float32 are too coarse for these
                near[i], least[i] = self._exactly(gaps[i], gap, start + i)
        distances = [math.sqrt(gap / rows.shape[1]) for gap in least]
        return _Geometry(gaps, near, distances, cosines.max(1).tolist(), _halving(rows[max(0, start - 2) :], n))

    def _exactly(self, gaps: np.ndarray, least: float, here: int) -> tuple[int, float]:
        """The nearest of the rows that may be it, and the square of how far it is."""
        close = (gaps <= least + ROUNDING).nonzero()[0]
        apart = self._thumbs[close] - self._thumbs[here]
        exact = np.einsum("ij,ij->i", apart, apart)
        best = int(exact.argmin())
        return int(close[best]), float(exact[best])

    def _one(self, seen: Seen, here: int, i: int, geometry: _Geometry, limits: Limits) -> dict[str, bool]:
        near, distance = geometry.near[i], geometry.distances[i]
        cluster = self._clusters[near] if distance < limits.radius else _Cluster(seen.label)
        signs: dict[str, bool] = {}
        if distance >= SAME:
            halving = geometry.halving[i - len(geometry.near)] if here > 1 else None
            if halving is not None:
                signs["bisect"] = halving
            if distance < limits.radius:
                signs |= self._of_repeated(seen, cluster, near, here)
            elif distance > 2 * limits.radius and not self._goes_on(seen, geometry.gaps[i], here, limits.radius):
                signs |= _of_new(seen, geometry.cosines[i], limits)
            cluster.take(here + self._gone, seen)
        self._labels.append(seen.label)
        self._clusters.append(cluster)
        return signs

    def _goes_on(self, seen: Seen, gaps: np.ndarray, here: int, radius: float) -> bool:
        """Is this the next frame of a fast film? It would repeat what was said of the one before."""
        like = here > 0 and self._labels[here - 1] == seen.label
        return like and float(gaps[here - 1]) < (4 * radius) ** 2 * self._thumbs.shape[1]

    def _of_repeated(self, seen: Seen, cluster: _Cluster, near: int, here: int) -> dict[str, bool]:
        signs = {"duplicate": True, "flip": self._labels[near] != seen.label}
        if cluster.size > 1 and near < here - 1:
            size = min(cluster.size.bit_length() - 1, 6)
            age = "late" if here - near < RECENT else "early"
            signs[f"search/{size} {age}"] = near + self._gone == cluster.lowest
            signs[f"hub/{size} {age}"] = near + self._gone == cluster.hub
        cluster.hub = near + self._gone
        return signs

    def _room(self, images: Sequence[Seen]) -> int:
        """Where the images were put: the arrays grow to `MOST` rows, then all but the last `WINDOW` are forgotten."""
        here, n = len(self._labels), len(images)
        if here + n > MOST:
            gone = here - WINDOW
            for rows in (self._thumbs, self._embeds):
                rows[: here - gone] = rows[gone:here].copy()
            self._squares[: here - gone] = self._squares[gone:here].copy()
            del self._labels[:gone], self._clusters[:gone]
            self._gone += gone
            here -= gone
        if here + n > len(self._thumbs):
            size = min(MOST, max(8, 2 * (here + n)))
            self._thumbs = _grown(self._thumbs, size, len(images[0].thumbnail))
            self._embeds = _grown(self._embeds, size, len(images[0].embedding))
        for row, seen in enumerate(images, here):
            self._thumbs[row], self._embeds[row] = seen.thumbnail, seen.embedding
        fresh = self._thumbs[here : here + n]
        self._squares[here : here + n] = np.einsum("ij,ij->i", fresh, fresh)
        return here


def _halving(rows: np.ndarray, n: int) -> list[bool | None]:
    """Of the last `n` steps, at most as many as there are pairs of steps: does it halve the one before, on its line?
    None where one of the two does not move.
    """
    steps = rows[1:] - rows[:-1]
    squares: list[float] = np.einsum("ij,ij->i", steps, steps).tolist()
    along: list[float] = np.einsum("ij,ij->i", steps[1:], steps[:-1]).tolist()
    least, found = SAME**2 * rows.shape[1], list[bool | None]()
    for before, after, product in zip(squares, squares[1:], along, strict=False):
        straight = product**2 > STRAIGHT**2 * after * before
        half = HALF[0] ** 2 * before < after < HALF[1] ** 2 * before
        found.append(straight and half if min(after, before) >= least else None)
    return found[-n:]


def _of_new(seen: Seen, cosine: float, limits: Limits) -> dict[str, bool]:
    return {
        "low_margin": seen.margin < limits.margin,
        "rough": seen.rough > limits.rough,
        "flagged": seen.flagged,
        "duplicate": False,
        "blinded": cosine > limits.angle,
    }


def _grown(rows: np.ndarray, size: int, width: int) -> np.ndarray:
    more = np.zeros((size, width), np.float32)
    if len(rows):
        more[: len(rows)] = rows
    return more
