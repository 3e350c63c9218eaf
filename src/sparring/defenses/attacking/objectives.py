"""What adaptive attacks climb: values per image, made of everything a stack computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparring.defenses.attacking.scene import Aims
from sparring.defenses.sight import Sight
from sparring.losses import class_margin

SURE = 0.5
"""How far beyond the boundary, in typical clean margins, an answer is wrong enough."""
CLEAR = 0.05
"""How far below its threshold a score is quiet enough, in spreads."""


@dataclass(frozen=True)
class Wrong:
    """The lead of a wrong class over the label, detectors ignored (Carlini & Wagner 2017, f6)."""

    def __call__(self, sight: Sight, aims: Aims) -> tuple[Tensor, ...]:
        """One value."""
        return (-class_margin(sight.served, aims.labels),)


@dataclass(frozen=True)
class CrossEntropy:
    """The label's cross-entropy minus `weight` times the detectors' scores in spreads: what comes to mind first.

    With weight 0, detectors are ignored.
    """

    weight: float = 0.0

    def __call__(self, sight: Sight, aims: Aims) -> tuple[Tensor, ...]:
        """One value."""
        value = cross_entropy(sight.answers, aims.labels, reduction="none")
        if self.weight and sight.excess.shape[1]:
            value = value - self.weight * _quiet(sight, torch.relu)
        return (value,)


@dataclass(frozen=True)
class Joint:
    """The label's lead down to `SURE` beyond the boundary, minus `weight` times the logarithm of how far scores are
    above their thresholds (Carlini & Wagner 2017, arXiv:1705.07263). The logarithm keeps a detector that shouts from
    drowning the classifier.
    """

    weight: float
    scale: float

    def __call__(self, sight: Sight, aims: Aims) -> tuple[Tensor, ...]:
        """One value."""
        wrong = (-_lead(sight, aims) / self.scale).clamp_max(SURE)
        return (wrong - self.weight * _quiet(sight, lambda excess: torch.log1p(torch.relu(excess))),)


@dataclass(frozen=True)
class Both:
    """Two values, for attacks that follow one gradient at a time (Bryniarski et al. 2021, arXiv:2106.15023): the lead
    of a wrong class, and minus the scores above their thresholds.
    """

    def __call__(self, sight: Sight, aims: Aims) -> tuple[Tensor, ...]:
        """Two values."""
        return -_lead(sight, aims), -_quiet(sight, torch.relu)


@dataclass(frozen=True)
class Agreement:
    """The mean lead of one wrong class over all others in everything the model was asked about: answer, bare image,
    squeezed and noisy views. Detectors that compare answers then find nothing to compare, also where their own gradient
    has vanished.
    """

    def __call__(self, sight: Sight, aims: Aims) -> tuple[Tensor, ...]:
        """One value, about the target or else the wrong class that is strongest in the mean."""
        seen = sight.logits_of_all()
        targets = aims.targets
        if targets is None:
            mean = torch.stack([z.detach() for z in seen]).mean(0)
            targets = mean.scatter(1, aims.labels[:, None], -torch.inf).argmax(1)
        return (torch.stack([class_margin(z, targets) for z in seen]).mean(0),)


@dataclass(frozen=True)
class Match:
    """Minus the distance between all logits and features and those of a clean image of another class (Tramèr et al.
    2020, arXiv:2002.08347): what looks like a clean image inside is taken for one by detectors that look inside.
    """

    scale: float

    def __call__(self, sight: Sight, aims: Aims) -> tuple[Tensor, ...]:
        """One value."""
        assert aims.logits is not None  # noqa: S101 - the stage supplies it
        far = [((z - aims.logits) / self.scale).square().mean(1) for z in sight.logits_of_all()]
        if sight.evidence is not None:
            for name, wanted in aims.features.items():
                spread = wanted.square().mean().sqrt().clamp_min(1e-6)
                far.append(((sight.evidence.features[name] - wanted) / spread).square().mean(1))
        return (-torch.stack(far).mean(0),)


@dataclass(frozen=True)
class Worst:
    """Minus whichever is farther from evading, the answer or a detector: climbs straight at the nearest evasion."""

    scale: float

    def __call__(self, sight: Sight, aims: Aims) -> tuple[Tensor, ...]:
        """One value."""
        return (-sight.gap(aims.labels, self.scale),)


def _lead(sight: Sight, aims: Aims) -> Tensor:
    """How far the answer is from the wrong class asked for, or from any."""
    if aims.targets is None:
        return class_margin(sight.answers, aims.labels)
    return -class_margin(sight.answers, aims.targets)


def _quiet(sight: Sight, above: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum over detectors, but for those the quorum forgives, of what `above` makes of their scores."""
    ranked = sight.excess.sort(1, descending=True).values
    return above(ranked[:, sight.quorum - 1 :] + CLEAR).sum(1).to(sight.answers.dtype)
