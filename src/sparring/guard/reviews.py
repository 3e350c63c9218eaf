"""What waits for a person, what a person said, and the labelled folder that comes of it."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import select

from sparring.errors import InputError
from sparring.files import write_whole
from sparring.guard.engine import Engine
from sparring.guard.events.store import Row, Store
from sparring.guard.events.tables import EVENTS, VERDICTS
from sparring.guard.quarantine import Quarantine
from sparring.loading.guard_table import GuardTable

UNUSABLE = -1


def waiting(store: Store, most: int = 50, before: int | None = None) -> list[Row]:
    """Events without a verdict that were withheld, flagged, or kept as close calls; newest first."""
    open_ = ~EVENTS.c.key.in_(select(VERDICTS.c.key))
    these = (EVENTS.c.flagged | EVENTS.c.picture) & open_
    if before is not None:
        these = these & (EVENTS.c.id < before)
    return store.rows(select(EVENTS).where(these).order_by(EVENTS.c.id.desc()).limit(most))


def judge(store: Store, key: str, label: int, classes: int, by: str) -> None:
    """Note the true class of an event's picture, or `UNUSABLE`. Raises `InputError` for what is not there."""
    if not UNUSABLE <= label < classes:
        raise InputError(f"label must be a class from 0 to {classes - 1}, or {UNUSABLE} for an unusable picture")
    if not store.rows(select(EVENTS.c.key).where(EVENTS.c.key == key)):
        raise InputError("there is no such event")
    with store.begin() as connection:
        store.put(VERDICTS, {"key": key, "label": label, "by": by[:64], "at": time.time()}, connection)


def export_folder(store: Store, settings: GuardTable, engine: Engine, out: Path) -> int:
    """Write every judged picture that is still in the quarantine to `out`/class/key.png; returns how many."""
    if settings.quarantine is None:
        raise InputError("[guard] quarantine names no folder, so no picture was kept")
    quarantine = Quarantine(settings.quarantine, settings.quarantine_most, settings.quarantine_days)
    count = 0
    for row in store.rows(select(VERDICTS).where(VERDICTS.c.label != UNUSABLE).order_by(VERDICTS.c.at)):
        data = quarantine.get(row["key"])
        if data is not None:
            name = engine.name(row["label"]).replace("/", "-")
            write_whole(out / name / f"{row['key']}.png", data)
            count += 1
    return count
