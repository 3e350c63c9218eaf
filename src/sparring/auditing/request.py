"""What an audit was asked for, and how it attacks some of its images once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.auditing.report import Report
from sparring.certification.certificate import Certificate
from sparring.evaluation import Evaluation, Progress, evaluate
from sparring.evaluation.task import Images, Subset
from sparring.model import Model
from sparring.threat import Threat


@dataclass(frozen=True, eq=False)
class Request:
    """What was asked for. `model` is the one to attack, adapted where its outputs were probabilities (`adapted`).

    `attacks` are those that were named, or (not `named`) those that the effort draws on.
    """

    model: Model
    images: Images
    labels: Tensor
    threat: Threat
    attacks: tuple[Attack, ...]
    named: bool
    targets: Tensor | None
    effort: str
    seed: int
    batch_size: int | None
    out: Path | None
    fail_under: float | None
    class_names: tuple[str, ...] | None
    model_name: str
    data_name: str
    setup: str | None
    adapted: bool
    baseline: Report | None
    progress: Callable[[Progress], None] | None

    def evaluated(self, attacks: Sequence[Attack] | None = None, *, certified: Certificate | None = None) -> Evaluation:
        """The evaluation itself: all images, the threat and the effort or the attacks that were asked for, or else
        `attacks`. certified: a certificate for images that need no attack.
        """
        return evaluate(
            self.model,
            self.images,
            self.labels,
            self.threat,
            attacks=attacks if attacks is not None else self.attacks if self.named else None,
            effort=self.effort,
            targets=self.targets,
            certified=certified,
            seed=self.seed,
            batch_size=self.batch_size,
            out=self.out,
            progress=self.progress,
        )

    def again(
        self,
        indices: Sequence[int],
        attacks: Sequence[Attack],
        name: str,
        threat: Threat | None = None,
        *,
        keep: bool = False,
    ) -> Evaluation:
        """The images at `indices`, one at least, under `attacks` and `threat`, or the audit's own. Goes on from where
        an interrupted audit left it; progress is told as `name`. Record i is about the image `indices[i]`. keep: the
        adversarials too.
        """
        rows = torch.tensor(indices)
        return evaluate(
            self.model,
            Subset(self.images, indices),
            self.labels[rows],
            self.threat if threat is None else threat,
            attacks=attacks,
            targets=None if self.targets is None else self.targets[rows],
            seed=self.seed,
            batch_size=self.batch_size,
            out=self.folder("checks"),
            keep=keep,
            progress=self._as_a_whole(name),
        )

    def used(self, evaluation: Evaluation) -> list[Attack]:
        """The attacks that ran."""
        names = {stage.attack for stage in evaluation.stages}
        return [attack for attack in self.attacks if str(attack) in names]

    def folder(self, name: str) -> Path | None:
        """Where the work called `name` is kept, below the audit's own folder; None where nothing is kept."""
        return None if self.out is None else self.out / name

    def told_as(self, name: str) -> Callable[[Progress], None] | None:
        """The progress callback for work that goes by another name."""
        tell = self.progress
        return None if tell is None else lambda event: tell(replace(event, stage=name))

    def eligible(self) -> list[int]:
        """The images there is something to attack about: all of them, or those not labelled as their target."""
        if self.targets is None:
            return list(range(len(self.labels)))
        return (self.targets != self.labels).nonzero().flatten().tolist()

    def _as_a_whole(self, name: str) -> Callable[[Progress], None] | None:
        """All stages of an evaluation as one: its verdicts, images times stages."""
        tell = self.progress
        if tell is None:
            return None

        def told(event: Progress) -> None:
            done, total = event.number * event.total + event.done, (event.stages + 1) * event.total
            tell(replace(event, stage=name, done=done, total=total, unit="verdicts"))

        return told


def sample(n: int, most: int, seed: int) -> list[int]:
    """At most `most` of n places, drawn with the seed, in order."""
    if n <= most:
        return list(range(n))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:most].tolist())
