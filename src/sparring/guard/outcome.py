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


@dataclass(frozen=True, eq=False)
class Columns:
    """What events need of a whole batch, turned to plain values once."""

    top: list[list[int]]
    shares: list[list[float]]
    scores: list[list[float]]
    thumbnails: list[bytes]
    embeddings: list[bytes]

    @classmethod
    def of(cls, answers: Answers) -> Columns:
        """Of a batch's answers."""
        prints = answers.prints
        return cls(
            top=answers.top.tolist(),
            shares=answers.top_shares.tolist(),
            scores=answers.scores.tolist(),
            thumbnails=packed(prints.thumbnails),
            embeddings=packed(prints.embeddings),
        )


def events(
    engine: Engine, sender: Sender, rows: range, columns: Columns, seen: Sequence[Seen], now: float, replica: str
) -> list[Row]:
    """One row per image of one request, the `rows` of a batch."""
    same: Row = {
        "at": sender.at,
        "client": sender.client,
        "trace": sender.trace,
        "replica": replica,
        "model": engine.model_digest[:16],
        "stack": engine.digest[:16],
        "latency": now - sender.at,
        "picture": False,
    }
    action, found = engine.stack.policy.flagged, []
    for position, i in enumerate(rows):
        one, shares = seen[i], columns.shares[i]
        pairs = ", ".join(f"[{label}, {share:.4f}]" for label, share in zip(columns.top[i], shares, strict=True))
        found.append(
            same
            | {
                "key": event_key(sender.trace, position),
                "label": one.label,
                "top": f"[{pairs}]",
                "confidence": shares[0],
                "margin": one.margin,
                "rough": one.rough,
                "scores": json.dumps(columns.scores[i]) if columns.scores[i] else "[]",
                "flagged": one.flagged,
                "decision": action if one.flagged else "accept",
                "thumbnail": columns.thumbnails[i],
                "embedding": columns.embeddings[i],
            }
        )
    return found


def event_key(trace: str, position: int) -> str:
    """Of one image's event, which is also its reference for human review."""
    return f"{trace}-{position}"
