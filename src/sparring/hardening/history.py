"""What a training run was like, epoch by epoch."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch. Accuracies are shares of the watch's slice of validation images: `clean`, `fgsm`, and `pgd` (PGD-10).

    aligned: mean cosine between the loss gradient at an image and at a random point of its ball. seconds: training;
    watch_seconds: the watch. note: what the watch had to say. kept: False where a roll-back undid the epoch.
    """

    number: int
    method: str
    loss: float
    rate: float
    eps: float
    clean: float
    fgsm: float
    pgd: float
    aligned: float
    seconds: float
    watch_seconds: float
    note: str = ""
    kept: bool = True


def as_csv(epochs: Sequence[Epoch]) -> str:
    """One line per epoch, with a header."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(Epoch)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(epoch) for epoch in epochs)
    return text.getvalue()


def from_plain(rows: Sequence[dict[str, Any]]) -> list[Epoch]:
    """Epochs from what `dataclasses.asdict` made of them."""
    return [Epoch(**row) for row in rows]
