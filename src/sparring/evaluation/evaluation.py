"""The result of an evaluation: records, estimates, stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.attacks.base import Attack
from sparring.certification.bracket import always_attacked
from sparring.estimate import Estimate, proportion
from sparring.evaluation.adversarials import Adversarials
from sparring.evaluation.records import ChunkResult, Record
from sparring.threat import Threat


@dataclass(frozen=True)
class StageSummary:
    """One attack of an evaluation: images tried and broken, passes and seconds spent, what it had to note.

    `purpose` says which images it was sent to, and why, where those were not all that stood. `rejected` candidates
    claimed to be adversarial but left the budget or the box; they were thrown away.
    """

    attack: str
    tried: int
    broke: int
    robust_after: Estimate
    forwards: int
    backwards: int
    seconds: float
    rejected: int
    complete: bool
    notes: tuple[str, ...] = ()
    purpose: str = ""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the attacks did to the images. Robust accuracy is an upper bound: the images nobody broke.

    `missed_bound`: the share of all images that the attacks of the spot check would still break, at most, among those
    that were not close to breaking and spared them (95 % confidence). `warnings`: what makes these numbers doubtful.
    """

    threat: Threat
    records: tuple[Record, ...]
    stages: tuple[StageSummary, ...]
    adversarials: Adversarials = field(repr=False)
    seed: int
    complete: bool
    targeted: bool = False
    missed_bound: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of all images that are classified correctly, with its 95 % Wilson interval."""
        return proportion(sum(r.prediction == r.label for r in self.records), len(self.records))

    @property
    def robust_accuracy(self) -> Estimate:
        """Share of all images classified correctly that no attack broke, with its 95 % Wilson interval.

        The interval covers the sampling of images; attacks that were too weak are not in it.
        """
        return proportion(sum(survived(r) for r in self.records), len(self.records))

    @property
    def attack_success_rate(self) -> Estimate:
        """Share of the attacked images (right at the start; targeted: and not labelled as the target) that broke. What
        is certified needs no attack and counts among them.
        """
        attacked = [r for r in self.records if r.attacked or r.certified]
        return proportion(sum(r.broken_by is not None for r in attacked), len(attacked))


MASKED = "gradients look masked"
"""How a doubt about gradients begins among the warnings, where a search without them found more, ..."""
MISLED = "gradients mislead"
"""... and where they do not say what a small step does, whether or not a search found more."""


def survived(record: Record) -> bool:
    """Right at the start and broken by nothing."""
    return record.prediction == record.label and record.broken_by is None


class State:
    """What is known so far, one row per image; stages are applied in order."""

    def __init__(self, labels: Tensor, targets: Tensor | None, certified: Tensor | None = None) -> None:
        n = len(labels)
        self.labels, self.targets = labels, targets
        self.certified = torch.zeros(n, dtype=torch.bool) if certified is None else certified
        self.spared = torch.zeros(n, dtype=torch.bool)
        self.digests = [""] * n
        self.seen, self.attacked = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        self.predictions = torch.full((n,), -1)
        self.margins: list[float | None] = [None] * n
        self.broken_stage = torch.zeros(n, dtype=torch.int64)
        self.adversarial_predictions = torch.full((n,), -1)
        self.distances = torch.zeros(n, dtype=torch.float64)
        self.forwards = torch.zeros(n, dtype=torch.int64)
        self.backwards = torch.zeros(n, dtype=torch.int64)
        self.missed_bound: float | None = None
        self.doubts: list[str] = []

    def doubt(self, searches: Sequence[Attack], broken: int) -> None:
        """Note that gradients cannot be trusted here, since `searches` without them `broken` images more."""
        names = ", ".join(map(str, searches))
        self.doubts.append(
            f"{MASKED}: {names} broke {broken} images that gradient attacks had not; the true robust "
            "accuracy may be lower still"
        )

    def spare(self, seed: int) -> None:
        """Once the clean pass is done: certified images that are right need no attack, but a few of them get it."""
        proved = self.certified & self.standing()
        self.certified, self.spared = proved, proved & ~always_attacked(proved, self.digests, seed)

    def margin_values(self) -> Tensor:
        """The smallest margin seen so far, float64 (N,); infinite where the model gave none."""
        return torch.tensor([math.inf if m is None else m for m in self.margins], dtype=torch.float64)

    def apply(self, result: ChunkResult) -> None:
        """Take over one chunk of one stage; stage 0 is the clean pass."""
        outcomes = result.outcomes
        for o in outcomes:
            known = self.margins[o.index]
            if o.margin is not None and (known is None or o.margin < known or o.met):
                self.margins[o.index] = o.margin
            if result.stage == 0:
                self.digests[o.index] = o.digest
        rows = torch.tensor([o.index for o in outcomes], dtype=torch.int64)
        self.forwards[rows] += torch.tensor([o.forwards for o in outcomes], dtype=torch.int64)
        self.backwards[rows] += torch.tensor([o.backwards for o in outcomes], dtype=torch.int64)
        if result.stage == 0:
            self.seen[rows] = True
            self.predictions[rows] = torch.tensor([o.prediction for o in outcomes], dtype=torch.int64)
            return
        self.attacked[rows] = True
        met = [o for o in outcomes if o.met]
        rows = torch.tensor([o.index for o in met], dtype=torch.int64)
        self.broken_stage[rows] = result.stage
        self.adversarial_predictions[rows] = torch.tensor([o.prediction for o in met], dtype=torch.int64)
        self.distances[rows] = torch.tensor([o.distance for o in met], dtype=torch.float64)

    def standing(self) -> Tensor:
        """Bool (N,): right at the start, unbroken, not spared as proved, and (targeted) not labelled as the target."""
        standing = self.seen & (self.predictions == self.labels) & (self.broken_stage == 0) & ~self.spared
        return standing if self.targets is None else standing & (self.targets != self.labels)

    def robust(self) -> int:
        """Number of images right at the start and unbroken."""
        return int((self.seen & (self.predictions == self.labels) & (self.broken_stage == 0)).sum())

    def records(self, attacks: list[str]) -> tuple[Record, ...]:
        """One record per image seen."""
        labels, predictions, stages = (x.tolist() for x in (self.labels, self.predictions, self.broken_stage))
        wrong, distances = self.adversarial_predictions.tolist(), self.distances.tolist()
        forwards, backwards, attacked = (x.tolist() for x in (self.forwards, self.backwards, self.attacked))
        certified = self.certified.tolist()
        return tuple(
            Record(
                index=i,
                digest=self.digests[i],
                label=labels[i],
                prediction=predictions[i],
                margin=self.margins[i],
                broken_by=attacks[stages[i] - 1] if stages[i] else None,
                adversarial_prediction=wrong[i] if stages[i] else None,
                distance=distances[i] if stages[i] else None,
                forwards=forwards[i],
                backwards=backwards[i],
                attacked=attacked[i],
                certified=certified[i],
            )
            for i in self.seen.nonzero().flatten().tolist()
        )
