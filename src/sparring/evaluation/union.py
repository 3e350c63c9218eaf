"""Several threats at once: an image counts as robust if no attack under any of them breaks it (Tramèr & Boneh 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sparring.attacks.base import Attack
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.evaluation.driver import evaluate
from sparring.evaluation.evaluation import Evaluation, survived
from sparring.evaluation.progress import Progress
from sparring.evaluation.task import Images
from sparring.model import Model
from sparring.threat import Threat

Attacks = Sequence[Attack | str] | None


@dataclass(frozen=True)
class UnionEvaluation:
    """One evaluation per threat, on the same images; per image, the worst of them."""

    evaluations: tuple[Evaluation, ...]

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of the images classified correctly."""
        return self.evaluations[0].clean_accuracy

    @property
    def robust(self) -> tuple[bool, ...]:
        """Per image: right at the start, and broken under none of the threats."""
        rows = zip(*(evaluation.records for evaluation in self.evaluations), strict=True)
        return tuple(all(survived(record) for record in row) for row in rows)

    @property
    def robust_accuracy(self) -> Estimate:
        """Mean over the images of the minimum over the threats, with its 95 % Wilson interval: the attacker chooses the
        threat anew for every image. Never more than the lowest of the single robust accuracies.
        """
        robust = self.robust
        return proportion(sum(robust), len(robust))

    @property
    def per_threat(self) -> dict[str, Estimate]:
        """Robust accuracy under each threat alone, by the threat's text."""
        return {str(evaluation.threat): evaluation.robust_accuracy for evaluation in self.evaluations}


def evaluate_union(
    model: Model,
    images: Images,
    labels: Tensor,
    threats: Sequence[Threat],
    *,
    attacks: Sequence[Attacks] | None = None,
    effort: str = "standard",
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> UnionEvaluation:
    """Robust accuracy of `model` against an attacker who may use any of `threats`, and beside it that under each alone.

    Every threat is evaluated on all images by `evaluate`, so the arguments are those of `evaluate`. attacks: one list
    per threat, None for those of `effort`. Raises as `evaluate` does, and `InputError` for no threat, the same threat
    twice, or another number of lists than of threats.
    """
    if not threats:
        raise InputError("threats is empty: name at least one")
    chosen: Sequence[Attacks] = [None] * len(threats) if attacks is None else attacks
    if len(chosen) != len(threats):
        raise InputError(
            f"attacks must hold one list (or None) per threat: {len(threats)} threats, {len(chosen)} lists"
        )
    texts = [str(threat) for threat in threats]
    for text in texts:
        if texts.count(text) > 1:
            raise InputError(f"{text} is listed twice")
    evaluations = [
        evaluate(
            model,
            images,
            labels,
            threat,
            attacks=mine,
            effort=effort,
            targets=targets,
            seed=seed,
            batch_size=batch_size,
            out=out,
            progress=progress,
        )
        for threat, mine in zip(threats, chosen, strict=True)
    ]
    return UnionEvaluation(tuple(evaluations))
