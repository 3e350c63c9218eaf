"""What an attack is billed for: passes through the model per image, and notes on what had to be done otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

_SILENT = "the model answered NaN to {} points the attack visited"
_COUNTED = re.compile(r"(the model (?:answered NaN to|returns infinite logits for) )(\d+)( .*)")


def added_up(notes: Iterable[str]) -> tuple[str, ...]:
    """Every note once; the counts of NaN answers that several batches noted are summed.

    >>> added_up(["the model answered NaN to 2 points", "slow", "the model answered NaN to 3 points", "slow"])
    ('the model answered NaN to 5 points', 'slow')
    """
    counts: dict[tuple[str, ...], int] = {}
    for note in notes:
        found = _COUNTED.fullmatch(note)
        key = (note,) if found is None else (found[1], found[3])
        counts[key] = counts.get(key, 0) + (0 if found is None else int(found[2]))
    return tuple(str(count).join(parts) for parts, count in counts.items())


@dataclass(eq=False)
class Ledger:
    """Forward and backward passes spent on each image, int64 (N,), and notes on what had to be done otherwise.

    `unanswered` counts the points for which the model's logits held NaN.
    """

    forwards: Tensor
    backwards: Tensor
    notes: dict[str, None] = field(default_factory=dict)
    unanswered: int = 0

    @classmethod
    def empty(cls, n: int) -> Ledger:
        """A ledger of zeros."""
        return cls(torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64))

    def count(self, rows: Tensor, forwards: int, backwards: int = 0) -> None:
        """Bill so many passes to each of `rows`, int64 (M,) on the CPU; to one that comes twice, twice."""
        for spent, passes in ((self.forwards, forwards), (self.backwards, backwards)):
            if passes:
                spent.index_add_(0, rows, torch.full_like(rows, passes))

    def heard(self, parts: list[Tensor]) -> Tensor:
        """The logits (N, K) of several batches as one; NaN among them is counted in a note."""
        logits = torch.cat(parts)
        silent = logits.isnan()
        if bool(silent.any()):
            self.notes.pop(_SILENT.format(self.unanswered), None)
            self.unanswered += int(silent.any(1).sum())
            self.notes[_SILENT.format(self.unanswered)] = None
        return logits
