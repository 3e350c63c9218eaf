"""Where the work is, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where the work is: stage `number` of `stages`, `done` of `total` `unit`, robust accuracy so far."""

    stage: str
    number: int
    stages: int
    done: int
    total: int
    robust: float
    unit: str = "images"
