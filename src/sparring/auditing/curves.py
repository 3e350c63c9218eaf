"""The accuracy-against-epsilon curves of an audit, on a sample where the set is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sparring.attacks import FGSM, PGD, Attack, MultiTargeted, RandomNoise
from sparring.auditing.report import Curve, CurvePoint, Interval
from sparring.auditing.request import Request, sample
from sparring.estimate import Estimate
from sparring.evaluation import robustness_curve
from sparring.evaluation.task import Subset
from sparring.threat import ThreatModel

SAMPLE = 500
"""Images a curve is measured on, at most."""
STEPS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Multiples of eps at which the curves are measured."""

QUICK = (
    FGSM(),
    PGD(steps=10, loss="margin", random_start=False),
    PGD(steps=20),
    MultiTargeted(targets=2, steps=20),
)
"""What the second curve is measured with."""


@dataclass(frozen=True)
class Measured:
    """A curve, and the distance of the nearest adversarial it found by image, where it looked for that."""

    curve: Curve
    distances: dict[int, float]


def budgets(threat: ThreatModel) -> list[float]:
    """Where the curves are measured: 0, the budget, and some multiples of it, rising."""
    return sorted({0.0, *(_budget(threat, step) for step in STEPS)})


def measured(request: Request, threat: ThreatModel, differentiable: bool) -> Iterator[Measured]:
    """FGSM raw (it may rise again) and a few short attacks carried along; noise where there is no gradient. Of a
    targeted audit: on the images not labelled as their target.
    """
    eligible = request.eligible()
    if not eligible:
        return
    chosen = [eligible[place] for place in sample(len(eligible), SAMPLE, request.seed)]
    rows = torch.tensor(chosen)
    for name, attacks, carry in _wanted(differentiable):
        curve = robustness_curve(
            request.model,
            Subset(request.images, chosen),
            request.labels[rows],
            norm=threat.norm,
            eps=budgets(threat),
            attacks=attacks,
            targets=None if request.targets is None else request.targets[rows],
            carry=carry,
            bounds=threat.bounds,
            mask=threat.mask,
            seed=request.seed,
            batch_size=request.batch_size,
            out=request.folder("curves"),
            progress=request.told_as(f"curve of {name}"),
        )
        points = zip(curve.eps, curve.accuracy, strict=True)
        distances = {} if curve.distances is None else dict(zip(chosen, curve.distances, strict=True))
        shown = Curve(attack=name, norm=curve.norm, points=tuple(_point(eps, share) for eps, share in points))
        yield Measured(shown, distances)


def headline_point(threat: ThreatModel, standing: Estimate, *, targeted: bool) -> Curve:
    """What all attacks together leave of all images, as a curve of one point."""
    which = "all images but those labelled as their target" if targeted else "all images"
    return Curve(attack=f"all attacks, {which}", norm=threat.norm, points=(_point(threat.eps, standing),))


def _wanted(differentiable: bool) -> list[tuple[str, Sequence[Attack], bool]]:
    if not differentiable:
        return [("random_noise", (RandomNoise(draws=20),), True)]
    return [("fgsm", (FGSM(),), False), ("quick attacks", QUICK, True)]


def _point(eps: float, accuracy: Estimate) -> CurvePoint:
    return CurvePoint(eps=eps, accuracy=Interval.of(accuracy))


def _budget(threat: ThreatModel, step: float) -> float:
    budget = float(f"{threat.eps * step:.12g}")
    if threat.norm == "l0":
        return float(round(budget))
    return min(budget, threat.bounds[1] - threat.bounds[0]) if threat.norm == "linf" else budget
