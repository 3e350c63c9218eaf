"""Calibrating from a data set or from stored events."""

from __future__ import annotations

import time

import torch

from sparring.guard.engine import Engine
from sparring.guard.events.store import Store
from sparring.guard.watch import benign, recorded
from sparring.guard.watch.profile import Profile, calibrate, calibrated
from sparring.loading import Dataset

IMAGES = 10_000
"""Of a data set, at most."""


def from_images(engine: Engine, data: Dataset, sessions: int, seed: int) -> Profile:
    """From `sessions` sessions made of the images of `data`."""
    images = data.images[0 : min(len(data.labels), IMAGES)]
    generator = torch.Generator().manual_seed(seed)
    return calibrate(engine, benign.sessions(images, sessions, generator), benign.scenes(images, generator))


def from_records(engine: Engine, store: Store, days: float) -> Profile:
    """From what clients sent in the last `days`, as far as this stack answered it. Whoever raised an alert counts as
    well: look at the alerts first, and calibrate on days without an attack.
    """
    since = time.time() - days * 86400
    return calibrated([session.images for session in recorded.sessions(store, engine.digest, since)], engine.digest)
