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

    top: list[str]
    shares: list[float]
    scores: list[str]
    thumbnails: list[bytes]
    embeddings: list[bytes]

    @classmethod
    def of(cls, answers: Answers) -> Columns:
        """Of a batch's answers."""
        prints, classes = answers.prints, answers.top.shape[1]
        form = f"[{', '.join(['[%d, %.4f]'] * classes)}]"
        pairs = np.stack([answers.top.astype(np.float64), answers.top_shares], 2).reshape(len(answers), -1)
        return cls(
            top=[form % tuple(row) for row in pairs.tolist()],
            shares=answers.confidence.tolist(),
            scores=[json.dumps(row) if row else "[]" for row in answers.scores.tolist()],
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
    action = engine.stack.policy.flagged
    return [
        {
            **same,
            "key": event_key(sender.trace, position),
            "label": seen[i].label,
            "top": columns.top[i],
            "confidence": columns.shares[i],
            "margin": seen[i].margin,
            "rough": seen[i].rough,
            "scores": columns.scores[i],
            "flagged": seen[i].flagged,
            "decision": action if seen[i].flagged else "accept",
            "thumbnail": columns.thumbnails[i],
            "embedding": columns.embeddings[i],
        }
        for position, i in enumerate(rows)
    ]


def event_key(trace: str, position: int) -> str:
    """Of one image's event, which is also its reference for human review."""
    return f"{trace}-{position}"
