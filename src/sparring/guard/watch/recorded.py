"""Sessions from stored events: to calibrate on real traffic, and to try other thresholds on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from sparring.guard.events.store import Store
from sparring.guard.events.tables import EVENTS
from sparring.guard.following import seen_again
from sparring.guard.watch.profile import Profile
from sparring.guard.watch.stream import Seen, Stream
from sparring.guard.watch.watcher import IDLE

MOST = 100_000
"""Events that are read, the newest ones."""


@dataclass(frozen=True)
class Session:
    """What one client sent without a long pause."""

    client: str
    start: float
    images: list[Seen]


def sessions(store: Store, stack: str, since: float = 0.0) -> list[Session]:
    """Of events of the stack with this digest, oldest first."""
    these = (EVENTS.c.at >= since) & (EVENTS.c.stack == stack[:16])
    rows = store.rows(select(EVENTS).where(these).order_by(EVENTS.c.id.desc()).limit(MOST))
    found: list[Session] = []
    latest: dict[str, tuple[Session, float]] = {}
    for row in reversed(rows):
        session, before = latest.get(row["client"], (None, 0.0))
        if session is None or row["at"] - before > IDLE:
            session = Session(row["client"], row["at"], [])
            found.append(session)
        session.images.append(seen_again(row))
        latest[row["client"]] = (session, row["at"])
    return found


def replayed(profile: Profile, found: list[Session], scale: Mapping[str, float]) -> dict[str, list[str]]:
    """Which clients would have raised an alarm of each kind, had the alarms been scaled so."""
    alarms: dict[str, list[str]] = defaultdict(list)
    for session in found:
        stream, raised = Stream(), set[str]()
        for signs in stream.observe(session.images, profile.limits):
            stream.add(signs, profile.limits.weights)
            raised |= {
                kind for kind, limit in profile.alarms.items() if stream.evidence[kind] > limit * scale.get(kind, 1.0)
            }
        for kind in raised:
            alarms[kind].append(session.client)
    return dict(alarms)
