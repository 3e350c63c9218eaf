"""Sparring sessions: one image, one attack, one client; and what the guard's own records say of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sqlalchemy import func, select
from torch import Tensor

from sparring.attacks import NES, HopSkipJump, Square
from sparring.attacks.base import Attack
from sparring.errors import InputError, ModelError
from sparring.goal import Untargeted
from sparring.guard.events.store import Store
from sparring.guard.events.tables import ALERTS, EVENTS
from sparring.guard.spar.careful import Careful
from sparring.guard.spar.remote import Remote, SpentError, connection
from sparring.threat import ThreatModel

EARLY = 20
"""Queries within which a success is counted apart: no stream can be told from so little."""
KINDS = ("square", "hopskipjump", "nes", "careful")
SETTLE = 3.0
"""Seconds that the guard has to write what it knows."""


@dataclass(frozen=True)
class Bout:
    """One session: queries sent, the one that succeeded, and the one after which the first alert was raised."""

    attack: str
    queries: int
    success: int | None
    alert: int | None
    kind: str
    refused: int

    @property
    def caught(self) -> bool:
        """Did the alert come before success?"""
        return self.alert is not None and (self.success is None or self.alert <= self.success)

    @property
    def early(self) -> bool:
        """Did it succeed too soon to judge?"""
        return self.success is not None and self.success <= EARLY


@dataclass(frozen=True)
class Ring:
    """Where sparring takes place: the guard's infer URL, its classes, budget, queries and seconds per session."""

    url: str
    classes: int
    eps: float
    queries: int = 500
    seconds: float = 60.0
    token: str = ""


def spar(
    ring: Ring,
    kind: str,
    images: Tensor,
    labels: Tensor,
    store: Store | None,
    *,
    cover: Tensor | None = None,
    first: int = 0,
    tell: Callable[[Bout], None] | None = None,
) -> list[Bout]:
    """One session per image. cover: benign images that the careful attacker hides among. store: the guard's database,
    from which alerts are read; without it nothing is known of them. first: number of the first session.

    Raises `InputError` for an unknown kind of attack.
    """
    if kind not in KINDS:
        raise InputError(f"attack must be one of {', '.join(KINDS)}, got {kind!r}")
    bouts = []
    for i in range(len(labels)):
        bout = _bout(ring, kind, images[i : i + 1], int(labels[i]), store, cover, first + i)
        bouts.append(bout)
        if tell is not None:
            tell(bout)
    return bouts


def _bout(
    ring: Ring, kind: str, image: Tensor, label: int, store: Store | None, cover: Tensor | None, number: int
) -> Bout:
    with connection(ring.url, number, ring.token) as client:
        until = time.monotonic() + ring.seconds
        remote = Remote(client, ring.url, image, label, ring.classes, ring.eps, ring.queries, until)
        if kind == "careful":
            remote = Careful(client, ring.url, image, label, ring.classes, ring.eps, ring.queries, until, cover=cover)
        threat = ThreatModel("linf", ring.eps)
        generator = torch.Generator().manual_seed(number)
        with contextlib.suppress(SpentError):
            try:
                _attack(kind, ring.queries)(
                    remote, image, Untargeted(torch.tensor([label])), threat, generator=generator
                )
            except ModelError as error:  # what the attack's problem makes of SpentError
                if not isinstance(error.__cause__, SpentError):
                    raise
    alert, found = _first_alert(store, remote.began) if store is not None else (None, "")
    return Bout(kind, remote.queries, remote.success, alert, found, remote.refused)


def _attack(kind: str, queries: int) -> Attack:
    if kind == "hopskipjump":
        return HopSkipJump(queries=queries)
    return NES(queries=queries) if kind == "nes" else Square(queries=queries)


def _first_alert(store: Store, began: float) -> tuple[int | None, str]:
    """After how many images of its client the first alert since `began` came, and its kind."""
    fresh = (
        select(ALERTS)
        .where(ALERTS.c.started >= began, ALERTS.c.kind.not_in(("drift", "regression")))
        .order_by(ALERTS.c.started)
        .limit(1)
    )
    deadline, known = time.monotonic() + SETTLE, -1
    while True:
        rows = store.rows(fresh)
        count = store.count(began)
        if rows or (count == known and time.monotonic() > deadline - SETTLE + 0.6):
            break
        known = count
        time.sleep(0.1)
    if not rows:
        return None, ""
    alert = rows[0]
    sent = select(func.count()).select_from(EVENTS).where(EVENTS.c.at <= alert["started"], EVENTS.c.at >= began)
    with store.engine.connect() as connection_:
        return int(connection_.scalar(sent) or 0), str(alert["kind"])


def summary(bouts: Sequence[Bout]) -> dict[str, float | int | None]:
    """Shares and medians of many sessions of one attack."""
    judged = [bout for bout in bouts if not bout.early]
    alerts = sorted(bout.alert for bout in judged if bout.alert is not None)
    return {
        "sessions": len(bouts),
        "succeeded within 20 queries": sum(bout.early for bout in bouts),
        "judged": len(judged),
        "alert before success": sum(bout.caught for bout in judged),
        "median queries to the alert": alerts[len(alerts) // 2] if alerts else None,
        "succeeded before the alert": sum(bout.success is not None and not bout.caught for bout in judged),
    }
