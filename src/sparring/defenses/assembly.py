"""From what was measured of a stack to its `StackOutcome`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.defenses.attacking.pursuit import Found
from sparring.defenses.detection import Detection, detection
from sparring.defenses.outcome import ImageRecord, NaiveRow
from sparring.defenses.scoring import Scored, share
from sparring.defenses.stack import Stack
from sparring.estimate import Estimate, proportion


@dataclass(frozen=True, eq=False)
class Replay:
    """A naive attack: its candidates, what they do to the bare model, and to the stack."""

    attack: str
    points: Tensor
    bare: Scored
    stack: Scored


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of the clean images by the stack and by the bare model, of every naive attack, and of the worst points."""

    labels: Tensor
    clean: Scored
    bare: Scored
    naive: Sequence[Replay]
    worst: Scored
    found: Found

    @property
    def draws(self) -> int:
        """Per image."""
        return self.clean.draws

    def estimates(self) -> dict[str, Estimate]:
        """Those of `StackOutcome`, by name."""
        clean, worst, draws = self.clean, self.worst, self.draws
        naive = clean.accepted_right
        for replay in self.naive:
            naive = torch.minimum(naive, draws - replay.stack.evading)
        right = 2 * clean.right > draws
        fooled, stopped = self._naive_attempts()
        removed = fooled & stopped
        return {
            "clean": share(clean.right, draws),
            "clean_flagged": share(clean.flagged, draws),
            "accepted": share(clean.accepted_right, draws),
            "undefended": proportion(int(self._standing_bare().sum()), len(self.labels)),
            "naive": share(naive, draws),
            "adaptive": share(self.robust(), draws),
            "evaded": share(worst.evading[right], draws),
            "removed": proportion(int(removed.sum()), int(fooled.sum())),
            "taken_back": proportion(int((removed & (2 * worst.evading > draws)).sum()), int(removed.sum())),
            "coverage": share(draws - clean.withheld, draws),
            "review": share(worst.withheld, draws),
        }

    def robust(self) -> Tensor:
        """Draws in which each image is robust with detection (N,)."""
        return torch.minimum(self.clean.accepted_right, self.draws - self.worst.evading)

    def naive_rows(self) -> tuple[NaiveRow, ...]:
        """One per naive attack."""
        rows = []
        for replay in self.naive:
            kept = torch.minimum(self.clean.accepted_right, self.draws - replay.stack.evading)
            standing = (self.bare.right == 1) & (replay.bare.right == 1)
            rows.append(
                NaiveRow(replay.attack, proportion(int(standing.sum()), len(standing)), share(kept, self.draws))
            )
        return tuple(rows)

    def detections(self, stack: Stack) -> tuple[Detection, ...]:
        """Every detector against naive and adaptive attempts, those that fool and all of them."""
        rows, right = [], self.bare.right == 1
        for column, fitted in enumerate(stack.detectors):
            clean = self.clean.scores[:, column][right]
            for kind, hits, scores in self._attempts():
                for against, chosen in (("fooled only", hits & right), ("all attempts", right)):
                    own = scores[:, column][chosen]
                    rows.append(detection(fitted.name, f"{kind}, {against}", fitted.threshold, clean, own))
        return tuple(rows)

    def records(self) -> tuple[ImageRecord, ...]:
        """One per image."""
        draws, naive = self.draws, torch.zeros_like(self.clean.evading)
        for replay in self.naive:
            naive = torch.maximum(naive, replay.stack.evading)
        columns = (
            self.labels,
            self.clean.labels,
            self.clean.flags,
            self.clean.accepted_right,
            naive,
            self.worst.evading,
        )
        rows = zip(*(column.tolist() for column in columns), self.found.by, strict=True)
        return tuple(
            ImageRecord(
                i, label, prediction, flag, accepted / draws, naive_ / draws, worst / draws, by if worst else None
            )
            for i, (label, prediction, flag, accepted, naive_, worst, by) in enumerate(rows)
        )

    def _standing_bare(self) -> Tensor:
        standing = self.bare.right == 1
        for replay in self.naive:
            standing = standing & (replay.bare.right == 1)
        return standing

    def _naive_attempts(self) -> tuple[Tensor, Tensor]:
        """Bool (N,): some naive attack fools the bare model; the stack stops every one that does."""
        right = self.bare.right == 1
        fooled, stopped = torch.zeros_like(right), torch.ones_like(right)
        for replay in self.naive:
            down = right & (replay.bare.right == 0)
            fooled |= down
            stopped &= ~down | (2 * replay.stack.evading <= self.draws)
        return fooled, stopped

    def _attempts(self) -> list[tuple[str, Tensor, Tensor]]:
        found = [(f"naive {replay.attack}", replay.bare.right == 0, replay.stack.scores) for replay in self.naive]
        return [*found, ("adaptive", self.worst.labels.cpu() != self.labels.cpu(), self.worst.scores)]
