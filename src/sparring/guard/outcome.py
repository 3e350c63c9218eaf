"""What one request is told of its images, and the rows that remember it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparring.guard.engine import Answers, Engine
from sparring.guard.events.store import Row
from sparring.guard.watch.prints import packed
from sparring.guard.watch.stream import Seen


@dataclass(frozen=True, eq=False)
class Sender:
    """Who sent a request, which one it is, and when it came (seconds since 1970)."""

    client: str
    trace: str
    at: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """The part of a batch's answers that belongs to one request, and when its events are stored (closed mode only)."""

    answers: Answers
    first: int
    last: int
    stored: asyncio.Future[bool] | None = None

    @property
    def rows(self) -> range:
        """Of the answers."""
        return range(self.first, self.last)

    def tensors(self, scores: bool) -> dict[str, np.ndarray]:
        """The outputs of a v2 answer; nothing is said of what was withheld."""
        part = slice(self.first, self.last)
        withheld = self.answers.withheld[part]
        found: dict[str, np.ndarray] = {
            "label": np.where(withheld, -1, self.answers.labels[part]).astype(np.int64),
            "confidence": np.where(withheld, 0, self.answers.confidence[part]).round(4).astype(np.float32),
            "abstained": withheld.astype(bool),
        }
        if scores:
            found["scores"] = self.answers.logits[part].astype(np.float32)
        return found


def events(
    engine: Engine, sender: Sender, outcome: Outcome, seen: Sequence[Seen], now: float, replica: str, action: str
) -> list[Row]:
    """One row per image. `action`: what the stack does with flagged ones."""
    answers, rows = outcome.answers, []
    for position, i in enumerate(outcome.rows):
        one, flagged = seen[i], bool(answers.flagged[i])
        rows.append(
            {
                "key": event_key(sender.trace, position),
                "at": sender.at,
                "client": sender.client,
                "trace": sender.trace,
                "replica": replica,
                "model": engine.model_digest[:16],
                "stack": engine.digest[:16],
                "label": one.label,
                "top": _pairs(answers.top[i], answers.top_shares[i]),
                "confidence": float(answers.confidence[i]),
                "margin": one.margin,
                "rough": one.rough,
                "scores": json.dumps(answers.scores[i].tolist()) if answers.scores.shape[1] else "[]",
                "flagged": flagged,
                "decision": action if flagged else "accept",
                "thumbnail": packed(one.thumbnail),
                "embedding": packed(one.embedding),
                "latency": now - sender.at,
                "picture": False,
            }
        )
    return rows


def event_key(trace: str, position: int) -> str:
    """Of one image's event, which is also its reference for human review."""
    return f"{trace}-{position}"


def _pairs(classes: np.ndarray, shares: np.ndarray) -> str:
    pairs = zip(classes.tolist(), shares.tolist(), strict=True)
    return "[" + ", ".join(f"[{label}, {share:.4f}]" for label, share in pairs) + "]"
