"""One re-audit beside the one that it is measured against, image by image."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select, update

from sparring.auditing.baseline import POINT, SURE
from sparring.estimate import mcnemar, proportion
from sparring.guard.events.store import Row, Store
from sparring.guard.events.tables import REAUDITS


@dataclass(frozen=True)
class Compared:
    """Is it worse than the accepted one, beyond chance? In words."""

    worse: bool
    said: str


def empty(key: str, stack: str, state: str = "running") -> Row:
    """The row of a re-audit that nothing is known of yet."""
    texts = {"key": key, "stack": stack[:16], "state": state, "task": "", "stood": "{}", "verdict": ""}
    return {**texts, "at": time.time(), "share": 0.0, "worse": False, "accepted": False}


def compared(stood: dict[str, int], before: Row | None) -> Compared:
    """`stood` (image digests with 1 or 0) beside an earlier row of the same task. Worse: at least one image in a
    hundred more fell than rose, and McNemar's test gives chance less than one in a hundred.
    """
    share = proportion(sum(stood.values()), len(stood))
    now = f"{100 * share:.1f} % of {len(stood)} images stand [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    if before is None:
        return Compared(False, f"{now}; the first of its kind, by which later ones are measured")
    then: dict[str, int] = json.loads(before["stood"])
    fell = sum(then.get(image, 0) > stands for image, stands in stood.items())
    rose = sum(then.get(image, 1) < stands for image, stands in stood.items())
    p = mcnemar(fell, rose)
    when = datetime.fromtimestamp(before["at"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    said = f"{now}; against {100 * before['share']:.1f} % on {when} {fell} fell and {rose} rose (McNemar p = {p:.2g})"
    return Compared(fell - rose >= POINT * len(stood) and p < SURE, said)


def accepted(store: Store, task: str) -> Row | None:
    """What re-audits of this task are measured against: the newest that was accepted; the first one always is."""
    these = (REAUDITS.c.task == task) & REAUDITS.c.accepted
    rows = store.rows(select(REAUDITS).where(these).order_by(REAUDITS.c.at.desc()).limit(1))
    return rows[0] if rows else None


def latest(store: Store, most: int = 1, stack: str | None = None) -> list[Row]:
    """The newest that are done, of one stack or of all."""
    these = REAUDITS.c.state == "done"
    if stack is not None:
        these = these & (REAUDITS.c.stack == stack[:16])
    return store.rows(select(REAUDITS).where(these).order_by(REAUDITS.c.at.desc()).limit(most))


def accept(store: Store, key: str) -> None:
    """Measure later ones against this one."""
    with store.begin() as connection:
        connection.execute(update(REAUDITS).where(REAUDITS.c.key == key).values(accepted=True, worse=False))
