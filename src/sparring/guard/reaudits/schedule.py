"""Re-audits by the clock: started as a process of its own, on one replica, and told where the stack became weaker."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable, Sequence

from sqlalchemy import update

from sparring.guard.alerts import SAID, Alerts, Notice
from sparring.guard.events.store import Row, Store
from sparring.guard.events.tables import REAUDITS
from sparring.guard.metrics import Metrics
from sparring.guard.reaudits.comparison import empty, latest
from sparring.guard.recurring import Recurring

LOG = logging.getLogger("sparring.guard")
EVERY = 5.0
"""Seconds between looks, at most."""
LEAST = 120.0
"""Seconds that a re-audit may take, at least; at most it may take until the next one is due."""
SUBJECT = "stack"
"""What stands in an alert where else the client stands."""


class Reaudits:
    """Looks at what re-audits of the stack with the digest `stack` found, whoever made them, and raises or ends the
    alert "regression". hours: after which another one is due; 0: none is started. command: what makes one; it is given
    `--key` and `--stack`, and ends with 0, or 1 where the stack became weaker.
    """

    def __init__(
        self,
        store: Store,
        alerts: Alerts,
        metrics: Metrics,
        stack: Callable[[], str],
        hours: float,
        command: Sequence[str],
    ) -> None:
        self.store, self.alerts, self.metrics, self.stack = store, alerts, metrics, stack
        self.seconds, self.command = 3600 * hours, command
        self.share = float("nan")
        self._judged = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._key, self._until = "", 0.0
        every = min(EVERY, self.seconds / 4 or EVERY)
        self._looking = Recurring(
            "guard-reaudits", every, lambda: self.look(time.time()), "re-audits cannot be followed"
        )
        self.start = self._looking.start

    def close(self) -> None:
        """Stop, and a running re-audit with it."""
        self._looking.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def look(self, now: float) -> None:
        """Judge the newest one, see to the running one, start the next one."""
        for row in latest(self.store, 1, self.stack()):
            self._judge(row)
        self._attend(now)
        if self._process is None and self.seconds and self.command:
            self._begin(now)

    def _judge(self, row: Row) -> None:
        if self._judged == row["key"] + str(row["worse"]):
            return
        self._judged, self.share = row["key"] + str(row["worse"]), row["share"]
        self.metrics.reaudits.labels("worse" if row["worse"] else "held").inc()
        LOG.info("re-audit: %s", row["verdict"])
        notice = Notice("regression", SUBJECT, "critical", f"{SAID['regression']}: {row['verdict']}")
        if row["worse"]:
            self.alerts.tell(notice)
        else:
            self.alerts.end(notice.key)

    def _attend(self, now: float) -> None:
        """A running process: has it ended, and how? One that takes too long is ended."""
        if self._process is None:
            return
        code = self._process.poll()
        if code is None and now < self._until:
            return
        if code not in (0, 1):
            self._process.kill()
            self._process.wait()
            LOG.error("the re-audit failed: %s", "it took too long" if code is None else f"exit {code}")
            self.metrics.reaudits.labels("failed").inc()
            with self.store.begin() as connection:
                connection.execute(update(REAUDITS).where(REAUDITS.c.key == self._key).values(state="failed"))
        self._process = None

    def _begin(self, now: float) -> None:
        """Claim this stretch of time; whose row is the first one in the common store makes the audit."""
        stack = self.stack()
        key = f"{stack[:16]}-{int(now // self.seconds):x}"
        if key == self._key:
            return
        with self.store.begin() as connection:
            mine = self.store.claim(REAUDITS, empty(key, stack), connection)
        self._key, self._until = key, now + max(LEAST, self.seconds)
        if mine:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [*self.command, "--key", key, "--stack", stack]
            self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
