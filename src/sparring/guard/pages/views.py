"""What the operators' pages show, read from the store."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, case, cast, func, select

from sparring.guard.events.store import Row, Store
from sparring.guard.events.tables import ALERTS, EVENTS, SANCTIONS
from sparring.guard.reaudits.comparison import latest
from sparring.guard.service import Guard
from sparring.guard.watch.recorded import replayed, sessions

SPANS = {"hour": (3600.0, 60.0), "day": (86400.0, 900.0), "week": (7 * 86400.0, 7200.0)}
"""Seconds that are shown, and seconds of one bar."""
SHOWN = 100
REPLAYED = 3 * 86400.0


@dataclass(frozen=True)
class Bar:
    """One stretch of time: images, and how many of them were flagged."""

    start: float
    images: int
    flagged: int


def traffic(store: Store, span: str) -> dict[str, Any]:
    """Images over time, decisions, and the clients that sent most."""
    length, width = SPANS[span]
    now = time.time()
    recent = EVENTS.c.at >= now - length
    number = cast(func.floor((EVENTS.c.at - (now - length)) / width), Integer)
    flagged = func.sum(case((EVENTS.c.flagged, 1), else_=0))
    found = {
        int(row["number"]): row
        for row in store.rows(
            select(number.label("number"), func.count().label("images"), flagged.label("flagged"))
            .where(recent)
            .group_by(number)
        )
    }
    bars = [
        Bar(now - length + i * width, *((found[i]["images"], found[i]["flagged"]) if i in found else (0, 0)))
        for i in range(int(length / width))
    ]
    busiest = store.rows(
        select(
            EVENTS.c.client, func.count().label("images"), flagged.label("flagged"), func.max(EVENTS.c.at).label("last")
        )
        .where(recent)
        .group_by(EVENTS.c.client)
        .order_by(func.count().desc())
        .limit(20)
    )
    decisions = store.rows(
        select(EVENTS.c.decision, func.count().label("images")).where(recent).group_by(EVENTS.c.decision)
    )
    return {
        "bars": bars,
        "top": max((bar.images for bar in bars), default=0),
        "busiest": busiest,
        "decisions": decisions,
        "reaudits": latest(store, 5),
    }


def alerts(store: Store) -> list[Row]:
    """Open ones first, then the latest."""
    return store.rows(select(ALERTS).order_by(ALERTS.c.resolved.is_not(None), ALERTS.c.seen.desc()).limit(SHOWN))


def client(guard: Guard, name: str) -> dict[str, Any]:
    """One client's latest images with what stands against it."""
    rows = guard.store.rows(select(EVENTS).where(EVENTS.c.client == name).order_by(EVENTS.c.id.desc()).limit(SHOWN))
    limits = {} if guard.profile is None else guard.profile.alarms
    evidence = {} if guard.watcher is None else guard.watcher.evidence(name)
    return {
        "name": name,
        "rows": [_shown(guard, row) for row in rows],
        "alerts": guard.store.rows(select(ALERTS).where(ALERTS.c.client == name)),
        "sanctions": guard.store.rows(
            select(SANCTIONS).where(SANCTIONS.c.client == name, SANCTIONS.c.until > time.time())
        ),
        "evidence": [(kind, value, limits.get(kind, 0.0)) for kind, value in evidence.items() if value > 0],
    }


def queue(guard: Guard, rows: list[Row]) -> list[dict[str, Any]]:
    """Events for review, with their names."""
    return [_shown(guard, row) for row in rows]


def simulation(guard: Guard, scale: Mapping[str, float]) -> dict[str, Any] | None:
    """What other alarm levels would have raised on the stored events of the last days; None without a profile."""
    if guard.profile is None:
        return None
    found = sessions(guard.store, guard.engine.digest, time.time() - REPLAYED)
    now, then = replayed(guard.profile, found, {}), replayed(guard.profile, found, scale)
    clients: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, names in then.items():
        for name in names:
            clients[name][kind] += 1
    rows = [
        (kind, limit, scale.get(kind, 1.0), len(now.get(kind, ())), len(then.get(kind, ())))
        for kind, limit in guard.profile.alarms.items()
    ]
    return {
        "rows": rows,
        "sessions": len(found),
        "images": sum(len(session.images) for session in found),
        "clients": {name: sorted(kinds) for name, kinds in clients.items()},
    }


def _shown(guard: Guard, row: Row) -> dict[str, Any]:
    top = [
        (guard.engine.name(label) if label < guard.engine.classes else str(label), share)
        for label, share in json.loads(row["top"])
    ]
    return {**row, "top": top, "name": top[0][0] if top else ""}
