"""What becomes of answers once they are given: rows for the store, signs for the watch, pictures for the quarantine.

All of it in a thread of its own and many batches together, so that no request waits for it but one that asked to.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparring.guard.batching import Job
from sparring.guard.engine import Answers, Engine
from sparring.guard.events.store import Row
from sparring.guard.events.writer import Writer
from sparring.guard.metrics import Metrics
from sparring.guard.outcome import Columns, Outcome, Sender, event_key, events
from sparring.guard.quarantine import Quarantine
from sparring.guard.watch.profile import seen_of
from sparring.guard.watch.stream import Seen

LOG = logging.getLogger("sparring.guard")
LINGER, LONGEST, FEW = 5.0, 0.03, 8
"""How long a first batch waits for others: so many times as long as the last work took, at most so many seconds, and
not at all after work on less than so many images. A lone attacker is noticed at once, and of many each costs less.
"""
MOST = 64
"""Batches waiting for this thread, from which on whoever brings more does its work."""
CLOSE_CALL = 0.2
"""Difference of the two highest probabilities below which a picture is kept for review, where there is a quarantine."""
Watch = Callable[[Sequence[str], Sequence[Seen], float], None]


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of the engine: the jobs it was for, its answers in their order, and when they were known."""

    engine: Engine
    jobs: Sequence[Job[Sender, Outcome]]
    outcomes: Sequence[Outcome]
    answers: Answers
    now: float


class Books:
    """Keeps the books of a guard. watch: called with clients, what they sent, and the time."""

    def __init__(
        self, writer: Writer, metrics: Metrics, quarantine: Quarantine | None, watch: Watch, replica: str
    ) -> None:
        self.writer, self.metrics, self.quarantine = writer, metrics, quarantine
        self.watch, self.replica = watch, replica
        self._batches: deque[Batch] = deque()
        self._busy = threading.Lock()
        self._news = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="guard-books", daemon=True)
        self._thread.start()

    def take(self, batch: Batch) -> None:
        """Note a batch; soon, or at once where too much waits."""
        self._batches.append(batch)
        if not self._news.is_set():
            self._news.set()
        if len(self._batches) > MOST:
            self.settle()

    def settle(self) -> int:
        """Do all that waits; returns how many images there were."""
        with self._busy:
            batches = [self._batches.popleft() for _ in range(len(self._batches))]
            promises = [o.stored for batch in batches for o in batch.outcomes if o.stored is not None]
            try:
                if batches and not self._entered(batches, promises):
                    _keep(promises, False)
            except Exception:  # what is wrong with these must not keep the next ones out
                LOG.exception("the books were not kept of %d batches", len(batches))
                _keep(promises, False)
            return sum(len(batch.answers) for batch in batches)

    def close(self) -> None:
        """Do what waits, then stop."""
        self._closing = True
        self._news.set()
        self._thread.join(30)
        self.settle()

    def _run(self) -> None:
        linger = 0.0
        while not self._closing:
            self._news.wait()
            if linger and not self._closing:
                time.sleep(linger)
            self._news.clear()
            start = time.perf_counter()
            count = self.settle()
            linger = min(LINGER * (time.perf_counter() - start), LONGEST) if count >= FEW else 0.0

    def _entered(self, batches: Sequence[Batch], promises: Sequence[asyncio.Future[bool]]) -> bool:
        """Write down, count, and pass on to the watch; False where the writer does not take it."""
        rows: list[Row] = []
        seen: list[Seen] = []
        for batch in batches:
            own, columns = seen_of(batch.answers), Columns.of(batch.answers)
            for job, outcome in zip(batch.jobs, batch.outcomes, strict=True):
                made = events(batch.engine, job.key, outcome.rows, columns, own, batch.now, self.replica)
                if self.quarantine is not None:
                    self._set_aside(self.quarantine, job, made, outcome)
                rows += made
            seen += own
        taken = self.writer.offer(rows, (lambda fine: _keep(promises, fine)) if promises else None)
        for decision, count in Counter(row["decision"] for row in rows).items():
            self.metrics.images.labels(decision).inc(count)
        self.watch([row["client"] for row in rows], seen, batches[-1].now)
        return taken

    def _set_aside(
        self, quarantine: Quarantine, job: Job[Sender, Outcome], rows: Sequence[Row], outcome: Outcome
    ) -> None:
        shares = outcome.answers.top_shares
        for position, (row, i) in enumerate(zip(rows, outcome.rows, strict=True)):
            close = shares.shape[1] > 1 and shares[i, 0] - shares[i, 1] < CLOSE_CALL
            if row["flagged"] or close:
                row["picture"] = quarantine.put(event_key(row["trace"], position), job.images[position])


def _keep(promises: Sequence[asyncio.Future[bool]], fine: bool) -> None:
    """Tell those who wait, from whatever thread this is."""
    if promises:
        promises[0].get_loop().call_soon_threadsafe(_kept, promises, fine)


def _kept(promises: Sequence[asyncio.Future[bool]], fine: bool) -> None:
    for promise in promises:
        if not promise.done():  # the client may have left
            promise.set_result(fine)
