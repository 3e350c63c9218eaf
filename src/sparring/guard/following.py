"""What other replicas saw and decided, read from the common database."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from sqlalchemy import select

from sparring.guard.events.store import Row, Store
from sparring.guard.events.tables import EVENTS, SANCTIONS
from sparring.guard.recurring import Recurring
from sparring.guard.watch.prints import unpacked
from sparring.guard.watch.stream import Seen

EVERY = 0.25
"""Seconds between looks."""
LATE = 5.0
"""Seconds that a transaction with a lower number may take longer than one with a higher."""
AT_ONCE = 1000
BEFORE = 20_000
"""Events of the past that a starting replica learns from, at most."""


class Follower:
    """Reads foreign events, passes each on once, and keeps the sanctions that are in force."""

    def __init__(self, store: Store, replica: str, take: Callable[[Row], None]) -> None:
        self.store, self.replica, self.take = store, replica, take
        self.sanctions: dict[str, tuple[str, float]] = {}
        self._late = LATE if store.kind == "postgresql" else 0.0  # SQLite writes one transaction after another
        self._known: OrderedDict[int, None] = OrderedDict()
        self._marks: deque[tuple[float, int]] = deque()
        looking = Recurring("guard-follower", EVERY, self.look, "other replicas cannot be followed")
        self.start, self.close = looking.start, looking.close

    def sanction(self, client: str, now: float) -> str:
        """What this client meets: an action, or "" for none."""
        action, until = self.sanctions.get(client, ("", 0.0))
        return action if until > now else ""

    def look(self) -> int:
        """Read what is new; returns how many foreign events there were."""
        now, last = time.time(), self.store.last_id()
        if not self._marks:
            self._marks.append((now, max(0, last - BEFORE)))
        foreign = (EVENTS.c.id > self._marks[0][1]) & (EVENTS.c.replica != self.replica)
        numbers = [row["id"] for row in self.store.rows(select(EVENTS.c.id).where(foreign).order_by(EVENTS.c.id))]
        fresh = [number for number in numbers if number not in self._known]
        for start in range(0, len(fresh), AT_ONCE):
            part = fresh[start : start + AT_ONCE]
            for row in self.store.rows(select(EVENTS).where(EVENTS.c.id.in_(part)).order_by(EVENTS.c.id)):
                self.take(row)
        self._known.update(dict.fromkeys(fresh))
        self._marks.append((now, last))
        while len(self._marks) > 1 and self._marks[1][0] < now - self._late:
            self._marks.popleft()
        while len(self._known) > 4 * BEFORE:
            self._known.popitem(last=False)
        inforce = self.store.rows(select(SANCTIONS).where(SANCTIONS.c.until > now))
        self.sanctions = {row["client"]: (row["action"], row["until"]) for row in inforce}
        return len(fresh)


def seen_again(row: Row) -> Seen:
    """An event as the watch sees it."""
    return Seen(
        unpacked(row["thumbnail"]),
        unpacked(row["embedding"]),
        row["label"],
        row["margin"],
        row["rough"],
        row["flagged"],
    )
