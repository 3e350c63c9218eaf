"""Events on their way to the store: gathered, written in batches by one thread, bounded, and never lost in silence."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sparring.guard.events.store import Row, Store

LOG = logging.getLogger("sparring.guard")
BATCH = 1000
PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts while the store fails."""
PASSING = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
"""What goes away when a database comes back; anything else is wrong with the row."""


@dataclass(frozen=True, eq=False)
class _Parcel:
    rows: Sequence[Row]
    stored: Callable[[bool], None] | None


class Writer:
    """Writes events to `store` from a thread of its own.

    linger: seconds that a first event waits for others. most: events waiting, at most. Beyond it `offer` drops and
    counts; while the store fails, the oldest batch is tried again until it is in.
    """

    def __init__(self, store: Store, most: int = 20_000, linger: float = 0.02) -> None:
        self.store, self.most, self.linger = store, most, linger
        self.written = self.dropped = self.failures = 0
        self.healthy = True
        self._parcels: deque[_Parcel] = deque()
        self._waiting = 0
        self._news = threading.Condition()
        self._closing = False
        self._give_up = float("inf")
        self._thread = threading.Thread(target=self._run, name="guard-events", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Events not yet written."""
        return self._waiting

    def offer(self, rows: Sequence[Row], stored: Callable[[bool], None] | None = None) -> bool:
        """Take rows, to be written soon; False where there is no room, and then they are counted as dropped.

        stored: called once from the writer's thread, with whether they are in the store.
        """
        with self._news:
            if self._closing or self._waiting + len(rows) > self.most:
                self.dropped += len(rows)
                return False
            self._parcels.append(_Parcel(rows, stored))
            self._waiting += len(rows)
            if len(self._parcels) == 1:
                self._news.notify()
        return True

    def close(self, seconds: float = 10.0) -> None:
        """Write what waits, then stop; what a failing store does not take within `seconds` is dropped and counted."""
        with self._news:
            self._closing, self._give_up = True, time.monotonic() + seconds
            self._news.notify()
        self._thread.join(seconds + 5)

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._parcels and not self._closing:
                    self._news.wait()
                if not self._parcels:
                    return
            if self.linger and not self._closing:
                time.sleep(self.linger)
            parcels = self._taken()
            rows = [row for parcel in parcels for row in parcel.rows]
            fine = self._written(rows)
            with self._news:
                self._waiting -= len(rows)
                if fine:
                    self.written += len(rows)
                else:
                    self.dropped += len(rows)
            for parcel in parcels:
                if parcel.stored is not None:
                    parcel.stored(fine)

    def _taken(self) -> list[_Parcel]:
        with self._news:
            parcels: list[_Parcel] = []
            count = 0
            while self._parcels and (not parcels or count + len(self._parcels[0].rows) <= BATCH):
                parcels.append(self._parcels.popleft())
                count += len(parcels[-1].rows)
        return parcels

    def _written(self, rows: Sequence[Row]) -> bool:
        """Try until they are in; False where they can never be, or the time to give up has come."""
        attempt = 0
        while True:
            try:
                with self.store.begin() as connection:
                    self.store.add_events(rows, connection)
            except SQLAlchemyError as error:
                self.failures += 1
                if self.healthy:
                    LOG.error("events cannot be stored: %s", str(error.__cause__ or error).splitlines()[0])
                self.healthy = False
                hopeless = not isinstance(error, PASSING)
                if hopeless or time.monotonic() > self._give_up:
                    return False
                with self._news:
                    self._news.wait_for(lambda: self._closing, PAUSES[min(attempt, len(PAUSES) - 1)])
                if self._closing:
                    time.sleep(0.05)
                attempt += 1
            else:
                if not self.healthy:
                    LOG.warning("events are stored again")
                self.healthy = True
                return True
