"""Benign sessions sent to one's own guard: whoever alarms at these alarms for nothing."""

from __future__ import annotations

import time

import torch
from sqlalchemy import select
from torch import Tensor

from sparring.guard.events.store import Store
from sparring.guard.events.tables import ALERTS
from sparring.guard.spar.remote import connection, sent
from sparring.guard.spar.session import SETTLE, Ring
from sparring.guard.watch import benign

LENGTHS = (20, 60)
AT_ONCE = 8
"""Images in one request."""


def false_alarms(
    ring: Ring, images: Tensor, store: Store | None, *, sessions: int, first: int = 0
) -> dict[str, float | int | None]:
    """Half of the sessions are of different images, half as a camera sees one scene; how many alerts came of it, None
    without the guard's store. Drift is no alarm at anybody.
    """
    began, count, refused = time.time(), 0, 0
    generator = torch.Generator().manual_seed(first)
    for number, session in enumerate(benign.sessions(images, sessions, generator, LENGTHS), first):
        until = time.monotonic() + ring.seconds
        with connection(ring.url, number, ring.token) as client:
            for part in torch.split(session[: ring.queries], AT_ONCE):
                if time.monotonic() > until:
                    break
                count += len(part)
                refused += sent(client, ring.url, part).status_code != 200
    if store is None:
        return {"sessions": sessions, "images": count, "refused": refused, "false alarms": None}
    time.sleep(SETTLE)
    fresh = select(ALERTS.c.key).where(ALERTS.c.started >= began, ALERTS.c.kind.not_in(("drift", "regression")))
    return {"sessions": sessions, "images": count, "refused": refused, "false alarms": len(store.rows(fresh))}
