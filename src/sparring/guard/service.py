"""The guard itself: engine, batches, events, watch and alerts as one thing that takes images and gives outcomes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from sparring.errors import ConfigError, SparringError
from sparring.guard.alerts import SAID, Alerts, Notice
from sparring.guard.batching import Batcher, Job, together
from sparring.guard.books import Batch, Books
from sparring.guard.clients import Door, Tokens
from sparring.guard.engine import Engine
from sparring.guard.events.store import Row, Store
from sparring.guard.events.writer import Writer
from sparring.guard.following import Follower, seen_again
from sparring.guard.metrics import Metrics
from sparring.guard.outcome import Outcome, Sender
from sparring.guard.quarantine import Quarantine
from sparring.guard.reaudits.schedule import Reaudits
from sparring.guard.refusal import RefusedError
from sparring.guard.upstream import UpstreamError
from sparring.guard.watch.profile import Profile
from sparring.guard.watch.stream import Seen
from sparring.guard.watch.watcher import EVERYONE, Alarm, Watcher
from sparring.loading.guard_table import GuardTable

LOG = logging.getLogger("sparring.guard")
SHORT_BATCH, SHORT = 8, 0.004
"""Batches that take less than so many seconds, by the time that one of so many images takes, are worked on in the event
loop's thread.
"""


class Guard:
    """Serves what `build` makes, as `settings` say. `build` is called again on reload. reaudit: the command that audits
    what is served, run where [guard] reaudit_hours says so.

    Raises `ConfigError` or `DataError` for settings that cannot work.
    """

    def __init__(self, build: Callable[[], Engine], settings: GuardTable, reaudit: Sequence[str] = ()) -> None:
        self.build, self.settings = build, settings
        self.metrics = Metrics()
        self.engine = build()
        self.engine.warm_up(settings.batch_most)
        self.profile = _profile(settings, self.engine)
        self.watcher = None if self.profile is None else Watcher(self.profile)
        self.key = _key()
        tokens = None if settings.tokens is None else Tokens.read(settings.tokens)
        self.door = Door(self.key, tokens, settings.proxies, settings.rate)
        self.quarantine = (
            None
            if settings.quarantine is None
            else Quarantine(settings.quarantine, settings.quarantine_most, settings.quarantine_days)
        )
        self.store = Store(os.environ.get("SPARRING_GUARD_DATABASE") or settings.database)
        self.replica = secrets.token_hex(8)
        self.writer = Writer(self.store, settings.events_most, linger=0.0)
        self.books = Books(self.writer, self.metrics, self.quarantine, self._watch, self.replica)
        self.alerts = Alerts(
            self.store,
            webhook=settings.webhook,
            secret=os.environ.get("SPARRING_GUARD_WEBHOOK_SECRET", "").encode(),
            cool_down=settings.cool_down,
            quiet=settings.quiet_seconds,
            sanction=(settings.response, settings.response_seconds),
            model=settings.served_as,
        )
        self.reaudits = Reaudits(
            self.store, self.alerts, self.metrics, lambda: self.engine.digest, settings.reaudit_hours, reaudit
        )
        self.follower = Follower(self.store, self.replica, self._foreign)
        self.batcher: Batcher[Sender, Outcome] = Batcher(
            self._work, settings.batch_most, settings.batch_wait, settings.queue_most
        )
        self._pace(self.engine)
        self.ready = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reloading = threading.Lock()
        self._gauges()

    def start(self) -> None:
        """Begin to take requests, inside a running event loop."""
        self._loop = asyncio.get_running_loop()
        self.batcher.start()
        self.follower.start()
        self.reaudits.start()
        self.ready = True

    async def close(self) -> None:
        """Finish what was taken, write what is known, let go."""
        self.ready = False
        await self.batcher.close()
        await asyncio.to_thread(self._end)

    async def decide(self, images: Tensor, sender: Sender) -> Outcome:
        """The outcome for one request's images (N, C, H, W). Raises `RefusedError` where it can't be had now."""
        if self.settings.events == "closed" and not self.writer.healthy:
            raise RefusedError(503, "store", "decisions cannot be stored now: try again", retry_after=2)
        try:
            outcome = await self.batcher.submit(images, sender)
        except UpstreamError as error:
            LOG.error("%s", error)
            raise RefusedError(503, "upstream", "the model does not answer now: try again", retry_after=2) from None
        if outcome.stored is not None and not await outcome.stored:
            raise RefusedError(503, "store", "the decision could not be stored: try again", retry_after=2)
        return outcome

    def reload(self) -> bool:
        """Build the stack again and serve the new one; where that fails, the old one stays."""
        with self._reloading:
            try:
                engine = self.build()
                engine.warm_up(self.settings.batch_most)
                profile = _profile(self.settings, engine)
                tokens = None if self.settings.tokens is None else Tokens.read(self.settings.tokens)
            except SparringError as error:
                LOG.error("reload failed, the old stack stays: %s", error)
                self.metrics.reloads.labels("failed").inc()
                return False
            if profile != self.profile:
                self.watcher = None if profile is None else Watcher(profile)
            self.door.tokens, self.profile = tokens, profile
            old, self.engine = self.engine, engine
            self._pace(engine)
            old.close()
        LOG.warning("reloaded: stack %s", engine.digest[:16])
        self.metrics.reloads.labels("done").inc()
        return True

    def _pace(self, engine: Engine) -> None:
        """Short batches need no thread of their own, where torch computes them: what else does may take its time."""
        self.batcher.inline_most = int(SHORT * SHORT_BATCH / engine.seconds(SHORT_BATCH)) if engine.native else 0

    def _work(self, jobs: list[Job[Sender, Outcome]]) -> list[Outcome]:
        """One batch, in the model's thread. What is to be remembered of it is nothing that its senders wait for."""
        engine = self.engine
        answers = engine(together(jobs))
        self.metrics.batches.observe(len(answers))
        outcomes, at = [], 0
        for job in jobs:
            outcomes.append(Outcome(answers, at, at + job.count, self._promise()))
            at += job.count
        self.books.take(Batch(engine, jobs, outcomes, answers, time.time()))
        return outcomes

    def _promise(self) -> asyncio.Future[bool] | None:
        return self._loop.create_future() if self.settings.events == "closed" and self._loop is not None else None

    def _watch(self, clients: Sequence[str], images: Sequence[Seen], now: float) -> None:
        if self.watcher is not None:
            self._notify(self.watcher.observe(clients, images, now))

    def _notify(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            severity = "info" if alarm.client == EVERYONE else "warning"
            if self.alerts.tell(Notice(alarm.kind, alarm.client, severity, SAID[alarm.kind])):
                self.metrics.alerts.labels(alarm.kind).inc()

    def _foreign(self, row: Row) -> None:
        """An event that another replica stored."""
        if row["stack"] == self.engine.digest[:16]:
            self._watch([row["client"]], [seen_again(row)], row["at"])

    def _gauges(self) -> None:
        self.metrics.gauge("queue_images", "Images waiting for the model.", lambda: float(self.batcher.waiting))
        self.metrics.gauge("events_waiting", "Events waiting for the store.", lambda: float(self.writer.waiting))
        self.metrics.gauge("events_written", "Events stored by this replica.", lambda: float(self.writer.written))
        self.metrics.gauge(
            "events_dropped", "Events lost: the store did not take them.", lambda: float(self.writer.dropped)
        )
        self.metrics.gauge("store_healthy", "1 while events can be stored.", lambda: float(self.writer.healthy))
        self.metrics.gauge(
            "reaudit_standing", "Share of images that the last re-audit left standing.", lambda: self.reaudits.share
        )
        self.metrics.gauge("alerts_unsent", "Alerts that the webhook did not take.", lambda: float(self.alerts.unsent))

    def _end(self) -> None:
        self.reaudits.close()
        self.follower.close()
        self.books.close()
        self.writer.close()
        self.alerts.close()
        self.engine.close()
        self.store.close()


def _profile(settings: GuardTable, engine: Engine) -> Profile | None:
    """The calibrated profile of this very stack, or None with a warning."""
    if settings.profile is None:
        LOG.warning("nobody watches the clients: run `sparring guard calibrate` and name the file in [guard] profile")
        return None
    profile = Profile.load(Path(settings.profile))
    if profile.stack != engine.digest:
        raise ConfigError(f"{settings.profile} was calibrated for another stack: run `sparring guard calibrate` again")
    return profile


def _key() -> bytes:
    """Of the clients' hashes, from SPARRING_GUARD_KEY."""
    given = os.environ.get("SPARRING_GUARD_KEY", "").encode()
    if given:
        if len(given) < 16:
            raise ConfigError(
                "SPARRING_GUARD_KEY must be at least 16 characters, such as `openssl rand -hex 32` prints"
            )
        return given[:64]
    LOG.warning("SPARRING_GUARD_KEY is not set: clients are hashed with a key of this process, and not known after it")
    return secrets.token_bytes(32)
