"""A model with randomness in an audit: attacked in expectation, every image judged by the majority of fresh draws."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sparring.auditing.request import Request
from sparring.diagnosis.randomised import ATTACKS, Drawn, drawn
from sparring.estimate import Estimate, proportion
from sparring.evaluation import Evaluation, Record
from sparring.evaluation.adversarials import Adversarials
from sparring.evaluation.evaluation import StageSummary
from sparring.model import device_of
from sparring.threat import ThreatModel

JUDGED = "randomness: judged by fresh draws, counted where most of them fail"
SINGLE_DRAWS = "randomness: one draw each, judged again below"


def judged(request: Request, evaluation: Evaluation) -> tuple[Evaluation, Drawn]:
    """A model with randomness, attacked in expectation: records by the majority of fresh draws, and the shares."""
    n, threat = len(request.labels), request.threat
    if not isinstance(threat, ThreatModel):
        raise TypeError(f"only l_p balls, got {type(threat).__name__}")
    everything = request.images[0:n].detach().to(device_of(request.model, request.images[0:1]))
    result = drawn(
        request.model,
        everything,
        request.labels.to(everything.device),
        threat,
        known=evaluation.adversarials.stack(everything),
        seed=request.seed,
    )
    names = [str(attack) for attack in ATTACKS]
    distance = threat.distance(everything, result.points)
    broken = (result.clean >= 0.5) & (result.worst < 0.5)
    records = tuple(_by_majority(r, result, names, broken, distance) for r in evaluation.records)
    points = result.points.cpu()
    places: dict[int, tuple[Tensor, int]] = {i: (points, i) for i in broken.nonzero().flatten().tolist()}
    stages = [replace(stage, purpose=SINGLE_DRAWS) for stage in evaluation.stages]
    left = int((result.clean >= 0.5).sum())
    for name, cost in zip(names, _shared_out(result), strict=True):
        broke = sum(r.broken_by == name for r in records)
        left -= broke
        stages.append(StageSummary(name, n, broke, proportion(left, n), *cost, 0, True, (), JUDGED))
    spent = [-(-sum(part[k] for part in result.costs) // n) for k in (0, 1)]
    records = tuple(
        replace(r, forwards=r.forwards + int(spent[0]), backwards=r.backwards + int(spent[1])) for r in records
    )
    return replace(evaluation, records=records, stages=tuple(stages), adversarials=Adversarials(dict(places))), result


def _shared_out(result: Drawn) -> list[tuple[int, int, float]]:
    """The cost of each attack, with its share of the judging."""
    *attacks, (forwards, backwards, seconds) = result.costs
    parts = len(attacks)
    return [(f + forwards // parts, b + backwards // parts, s + seconds / parts) for f, b, s in attacks]


def mean_of(shares: Tensor) -> Estimate:
    """The mean of shares (N,) in [0, 1] with Wilson's interval, which is too wide for them rather than too narrow."""
    value, n = float(shares.mean()), len(shares)
    near = proportion(round(value * n), n)
    shift = value - near.value
    return Estimate(value, max(0.0, near.low + min(shift, 0.0)), min(1.0, near.high + max(shift, 0.0)), n)


def _by_majority(record: Record, result: Drawn, names: list[str], broken: Tensor, distance: Tensor) -> Record:
    i = record.index
    right = bool(result.clean[i] >= 0.5)
    prediction = record.label if right else record.prediction
    if not bool(broken[i]):
        return replace(record, prediction=prediction, broken_by=None, adversarial_prediction=None, distance=None)
    known = record.broken_by if int(result.chosen[i]) <= 0 and record.broken_by else None
    return replace(
        record,
        prediction=prediction,
        broken_by=known or names[max(0, int(result.chosen[i]))],
        adversarial_prediction=int(result.answers[i]),
        distance=float(distance[i]),
        attacked=True,
    )
