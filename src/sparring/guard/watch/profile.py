"""What `sparring guard calibrate` learns of benign traffic: limits, rates, and how much evidence raises an alarm."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.errors import DataError, InputError
from sparring.files import write_whole
from sparring.guard.engine import Answers, Engine
from sparring.guard.watch.stream import LIKELY, Limits, Seen, Stream

SCHEMA = 1
SLACK, STEP, LEAST = 1.15, 2.5, 12.0
"""An alarm needs this many times the evidence that any benign session gathered, so much on top, and never less."""
QUANTILES = {"margin": 0.4, "rough": 0.98, "radius": 0.01, "angle": 0.999}
ENOUGH = 20
"""Sessions below which calibration means nothing."""


@dataclass(frozen=True)
class Profile:
    """Limits of benign traffic, the evidence of each kind that raises an alarm, for which stack, from how much."""

    limits: Limits
    alarms: dict[str, float]
    stack: str
    sessions: int
    images: int

    def raised(self, evidence: dict[str, float]) -> list[str]:
        """The kinds of evidence that are beyond their alarm."""
        return [kind for kind, value in evidence.items() if value > self.alarms[kind]]

    def save(self, path: Path) -> None:
        """As JSON."""
        write_whole(path, (json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Raises `DataError` for a file that `save` did not write."""
        try:
            said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if said.pop("schema") != SCHEMA or set(said["alarms"]) != set(LIKELY):
                raise DataError(f"{path} was written by another version: run `sparring guard calibrate` again")
            return cls(limits=Limits(**said.pop("limits")), **said)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; `sparring guard calibrate` writes it") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is not a profile; `sparring guard calibrate` writes one") from None


def calibrate(engine: Engine, sessions: Iterable[Tensor], scenes: Tensor | None = None) -> Profile:
    """Learn from benign sessions, each the images (N, C, H, W) of one client in order.

    scenes: images of which no two show the same, by which near-duplicates are told from mere likeness; without them,
    one image of each session, which is wrong where sessions share scenes. Alarms are set beyond the most evidence that
    any of these sessions gathers. So the more sessions, and the more like the real traffic, the fewer false alarms.
    Raises `InputError` for fewer than 20 sessions.
    """
    streams = [seen_of(engine(images)) for images in sessions]
    return calibrated(streams, engine.digest, None if scenes is None else seen_of(engine(scenes)))


def calibrated(streams: Sequence[Sequence[Seen]], stack: str, scenes: Sequence[Seen] | None = None) -> Profile:
    """`calibrate` on images that were seen already."""
    streams = [stream for stream in streams if len(stream) > 1]
    if len(streams) < ENOUGH:
        raise InputError(f"{len(streams)} sessions of more than one image are too few to learn from: give {ENOUGH}")
    limits = _limits(streams, scenes or _one_of_each(streams))
    shown, asked = Counter[str](), Counter[str]()
    every = [_signs(stream, limits) for stream in streams]
    for signs in every:
        for one in signs:
            for sign, value in one.items():
                asked[sign] += 1
                shown[sign] += value
    rates = {sign: (shown[sign] + 1) / (asked[sign] + 2) for sign in asked}
    limits = dataclasses.replace(limits, rates=rates)
    most = dict.fromkeys(LIKELY, 0.0)
    for signs in every:
        stream = Stream()
        for one in signs:
            stream.add(one, limits.weights)
            most = {kind: max(value, stream.evidence[kind]) for kind, value in most.items()}
    alarms = {kind: max(LEAST, SLACK * value + STEP) for kind, value in most.items()}
    return Profile(limits, alarms, stack, len(streams), sum(map(len, streams)))


def seen_of(answers: Answers) -> list[Seen]:
    """The images of one call, as the watch sees them."""
    prints = answers.prints
    thumbs, embeds = prints.thumbnails.astype(np.float32), prints.embeddings.astype(np.float32)
    columns = (answers.labels, answers.margin, prints.rough, answers.flagged)
    return list(map(Seen, thumbs, embeds, *(column.tolist() for column in columns)))


def _signs(stream: Sequence[Seen], limits: Limits) -> list[dict[str, bool]]:
    return Stream().observe(stream, limits)


def _limits(streams: Sequence[Sequence[Seen]], scenes: Sequence[Seen]) -> Limits:
    """Margin and roughness from everything, distances from `scenes`, which are no duplicates."""
    everything = [seen for stream in streams for seen in stream]
    margin = float(np.quantile([seen.margin for seen in everything], QUANTILES["margin"]))
    rough = float(np.quantile([seen.rough for seen in everything], QUANTILES["rough"]))
    distances, cosines = _between(scenes)
    radius = 0.9 * float(np.quantile(distances, QUANTILES["radius"]))
    return Limits(radius, float(np.quantile(cosines, QUANTILES["angle"])), margin, rough)


def _one_of_each(streams: Sequence[Sequence[Seen]]) -> list[Seen]:
    generator = torch.Generator().manual_seed(0)
    return [stream[int(torch.randint(len(stream), (), generator=generator))] for stream in streams]


def _between(picked: Sequence[Seen]) -> tuple[np.ndarray, np.ndarray]:
    """Of each image: the distance to the nearest other one, and the highest cosine of embeddings."""
    thumbs, embeds = np.stack([s.thumbnail for s in picked]), np.stack([s.embedding for s in picked])
    cosines = embeds @ embeds.T
    squares = (thumbs**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * thumbs @ thumbs.T, 0) / thumbs.shape[1])
    np.fill_diagonal(distances, np.inf)
    distances[distances <= 1e-3] = np.inf  # one image drawn twice
    np.fill_diagonal(cosines, -1.0)
    return distances.min(1), cosines.max(1)
