"""Alerts: a log line always, a signed webhook where one is named, each alert once, and word when it is over."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import SQLAlchemyError

from sparring.guard.events.store import Row, Store
from sparring.guard.events.tables import ALERTS, SANCTIONS

LOG = logging.getLogger("sparring.guard")
SAID = {
    "low_margin": "sends images near the decision boundary",
    "rough": "sends images noisier than the traffic",
    "flagged": "sends images that the detectors flag",
    "duplicate": "sends near-duplicates of one image",
    "blinded": "sends images that only the model's features show to be one",
    "search": "keeps what lowers the margin and changes it again, as random search does",
    "hub": "goes out from one image again and again, as an estimate of the boundary or a search does",
    "flip": "makes the label of one image flip",
    "bisect": "halves its steps along a line, as a search for the boundary does",
    "drift": "sends other traffic than was calibrated, most clients alike; this is no attack by one of them",
    "regression": "was found weaker than before by its re-audit",
}
LASTING = ("regression",)
"""Alerts that silence does not end."""
ATTEMPTS = (0.0, 1.0, 4.0, 15.0)
"""Seconds before each attempt to post."""


@dataclass(frozen=True)
class Notice:
    """Something to be told: what kind, about whom, how badly, in words."""

    kind: str
    client: str
    severity: str
    said: str

    @property
    def key(self) -> str:
        """What makes two alerts the same."""
        return f"{self.kind}:{self.client}"


class Alerts:
    """Takes notices from any thread; a thread of its own stores, logs and sends them.

    cool_down: seconds before the same alert is sent again. quiet: seconds without a sign after which it is over.
    secret: key of the signature in `X-Sparring-Signature`. sanction: what the client meets, and for how long.
    """

    def __init__(
        self,
        store: Store,
        *,
        webhook: str | None = None,
        secret: bytes = b"",
        cool_down: float = 300.0,
        quiet: float = 600.0,
        sanction: tuple[str, float] = ("log", 0.0),
        model: str = "",
    ) -> None:
        self.store, self.webhook, self.secret = store, webhook, secret
        self.cool_down, self.quiet, self.sanction, self.model = cool_down, quiet, sanction, model
        self.raised: dict[str, int] = {}
        self.unsent = 0
        self._noted: dict[str, float] = {}
        self._queue: queue.Queue[Notice | None] = queue.Queue(1000)
        self._thread = threading.Thread(target=self._run, name="guard-alerts", daemon=True)
        self._thread.start()

    def tell(self, notice: Notice) -> bool:
        """Pass a notice on, at most one per second and kind for each client; True where it is news here."""
        now = time.monotonic()
        before = self._noted.get(notice.key)
        if before is not None and now - before < 1.0:
            return False
        if len(self._noted) > 10_000:
            self._noted.clear()
        self._noted[notice.key] = now
        if before is None or now - before > self.cool_down:
            self.raised[notice.kind] = self.raised.get(notice.kind, 0) + 1
            LOG.warning("alert %s %s: %s %s", notice.severity, notice.kind, _whom(notice.client), notice.said)
        try:
            self._queue.put_nowait(notice)
        except queue.Full:
            self.unsent += 1
        return before is None

    def close(self) -> None:
        """Send what waits, then stop."""
        self._queue.put(None)
        self._thread.join(20)

    def _run(self) -> None:
        while True:
            try:
                notice = self._queue.get(timeout=min(5.0, max(0.05, self.quiet / 4)))
                if notice is None:
                    return
                self._handle(notice)
            except queue.Empty:
                pass
            except SQLAlchemyError as error:
                LOG.error("alerts cannot be stored: %s", str(error.__cause__ or error).splitlines()[0])
            try:
                self.resolve(time.time())
            except SQLAlchemyError:
                continue  # said above or soon

    def _handle(self, notice: Notice) -> None:
        now = time.time()
        try:
            row = self._stored(notice, now)
        except SQLAlchemyError:
            self._post("firing", [_row(notice, now)])  # better twice than never
            raise
        if row is not None:
            self._post("firing", [row])

    def _stored(self, notice: Notice, now: float) -> Row | None:
        """Note the sign; the alert's row where it is this replica's turn to send it."""
        with self.store.begin() as connection:
            self.store.add(ALERTS, [_row(notice, now)], connection)
            this = ALERTS.c.key == notice.key
            over = connection.execute(
                update(ALERTS).where(this, ALERTS.c.resolved.is_not(None)).values(resolved=None, started=now, sent=0.0)
            ).rowcount
            del over
            connection.execute(update(ALERTS).where(this).values(seen=now, count=ALERTS.c.count + 1, said=notice.said))
            due = connection.execute(
                update(ALERTS).where(this, ALERTS.c.sent <= now - self.cool_down).values(sent=now)
            ).rowcount
            action, seconds = self.sanction
            if action != "log" and notice.kind not in ("drift", "regression") and len(notice.client) == 32:
                until = {"client": notice.client, "action": action, "until": now + seconds, "why": notice.kind}
                self.store.put(SANCTIONS, until, connection)
            found = connection.execute(select(ALERTS).where(this)).mappings().one()
            return dict(found) if due else None

    def resolve(self, now: float) -> None:
        """Close alerts that have been quiet for long enough, and say so."""
        self._close(ALERTS.c.kind.not_in(LASTING) & (ALERTS.c.seen < now - self.quiet), now)

    def end(self, key: str) -> None:
        """Close one alert now, if it is open, and say so."""
        self._close(ALERTS.c.key == key, time.time())

    def _close(self, these: ColumnElement[bool], now: float) -> None:
        these = ALERTS.c.resolved.is_(None) & these
        if not self.store.rows(select(ALERTS.c.key).where(these).limit(1)):
            return
        over = []
        for row in self.store.rows(select(ALERTS).where(these)):
            with self.store.begin() as connection:
                mine = connection.execute(
                    update(ALERTS).where(ALERTS.c.key == row["key"], these).values(resolved=now)
                ).rowcount
            if mine:
                over.append({**row, "resolved": now})
                self._noted.pop(row["key"], None)
                LOG.warning("alert over: %s of %s", row["kind"], _whom(row["client"]))
        if over:
            self._post("resolved", over)

    def _post(self, status: str, rows: Sequence[Row]) -> None:
        if self.webhook is None:
            return
        import httpx

        body = json.dumps(payload(status, rows, self.model)).encode()
        for pause in ATTEMPTS:
            time.sleep(pause)
            try:
                answer = httpx.post(self.webhook, content=body, headers=signed(body, self.secret), timeout=5)
            except httpx.HTTPError:
                continue
            if answer.status_code < 300:
                return
            if 400 <= answer.status_code < 500 and answer.status_code != 429:
                break
        self.unsent += len(rows)
        LOG.error("the webhook did not take %d alerts", len(rows))


def signed(body: bytes, secret: bytes, now: float | None = None) -> dict[str, str]:
    """Headers of a webhook: HMAC-SHA256 over time and body, so that neither can be changed nor replayed later."""
    stamp = str(int(time.time() if now is None else now))
    found = {"Content-Type": "application/json", "X-Sparring-Timestamp": stamp}
    if secret:
        mac = hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        found["X-Sparring-Signature"] = f"sha256={mac}"
    return found


def payload(status: str, rows: Sequence[Row], model: str) -> dict[str, Any]:
    """The body that Alertmanager would send, version 4."""
    common = {"job": "sparring-guard", "model": model}
    alerts = [
        {
            "status": status,
            "labels": {
                "alertname": f"sparring_{row['kind']}",
                "client": row["client"],
                "severity": row["severity"],
                **common,
            },
            "annotations": {"summary": f"{_whom(row['client'])} {row['said']}", "signs": str(row["count"])},
            "startsAt": _iso(row["started"]),
            "endsAt": _iso(row["resolved"]) if row["resolved"] else "0001-01-01T00:00:00Z",
            "generatorURL": "",
            "fingerprint": hashlib.sha256(row["key"].encode()).hexdigest()[:16],
        }
        for row in rows
    ]
    return {
        "version": "4",
        "groupKey": "sparring-guard",
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "sparring-guard",
        "groupLabels": {},
        "commonLabels": common,
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": alerts,
    }


def _whom(client: str) -> str:
    """A client's hash as such; everyone, a crowd and the stack by name."""
    return f"client {client}" if len(client) == 32 else client


def _row(notice: Notice, now: float) -> Row:
    return {
        "key": notice.key,
        "kind": notice.kind,
        "client": notice.client,
        "severity": notice.severity,
        "said": notice.said,
        "started": now,
        "seen": now,
        "sent": 0.0,
        "resolved": None,
        "count": 0,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
