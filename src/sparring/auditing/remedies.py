"""The remedies an audit applies by itself: detours around what blocks a gradient, more attacks on what stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparring.attacks import PGD, Attack, MultiTargeted, Square
from sparring.auditing.checks import MASKED, unproved
from sparring.auditing.findings import FINDINGS
from sparring.auditing.preflight import Preflight
from sparring.auditing.report import Finding
from sparring.auditing.request import Request
from sparring.diagnosis.detours import Averaged, Detoured
from sparring.diagnosis.indirect import ThroughSurrogate
from sparring.diagnosis.precision import more_precise, rescaled
from sparring.diagnosis.repair import JUDGED_ON, Repair, repaired
from sparring.estimate import proportion
from sparring.evaluation import Evaluation
from sparring.evaluation.evaluation import MASKED as LOOK_MASKED
from sparring.evaluation.evaluation import MISLED, StageSummary
from sparring.evaluation.task import Subset
from sparring.model import device_of
from sparring.threat import Threat, ThreatModel

LONG, SEARCH = 100, 5000
"""Steps and queries for what still stands where a gradient looks masked; effort quick searches a fifth of that."""
SCALED_STEPS = 40
"""Steps on the cross-entropy of logits that were scaled down."""
BROKEN_GRADIENT = frozenset(
    ("no-gradient", "zero-gradient", "gradient-misleads", "gradient-underflow", "unstable-loss")
)
"""What a detour may mend."""
STILL_MASKED = frozenset(("noise-beats-gradient", "one-step-beats-many", "unbounded-survivors"))
"""What says that it did not."""
SMELLS = MASKED | {
    "blocked-gradient",
    "gradient-free-wins",
    "no-gradient",
    "gradient-underflow",
    "unstable-loss",
    "success-does-not-grow",
    "more-steps-help",
    "transfer-wins",
    "surrogate-only",
}


def mended(ready: Preflight, images: Tensor, labels: Tensor, threat: Threat) -> Preflight:
    """`ready` with a model whose gradient takes a detour, where its own is missing, zero or false and one helps."""
    wrong = frozenset(finding.code for finding in ready.findings) & BROKEN_GRADIENT
    if not wrong or not isinstance(threat, ThreatModel) or threat.eps == 0:
        return ready
    precise = None
    if "gradient-underflow" in wrong:
        precise = more_precise(ready.model, images[:JUDGED_ON], labels[:JUDGED_ON], threat)
    repair = repaired(ready.model, images, labels, threat)
    if precise is not None and (repair is None or not _stronger(repair, precise[2])):
        findings = tuple(_mended(f, wrong, precise[1]) for f in ready.findings)
        return replace(ready, model=precise[0], findings=findings)
    if repair is None:
        return ready
    told = FINDINGS["blocked-gradient"].found(str(repair), resolved=True)
    settled = wrong | ({"probability-outputs"} if repair.model.shows_logits else set())
    findings = tuple(_mended(f, settled) for f in ready.findings)
    return replace(ready, model=repair.model, differentiable=True, findings=(*findings, told))


def _stronger(repair: Repair, left: float) -> bool:
    """Does a detour leave less of the margins than float64, which leaves `left`? Logits before what saturates them are
    the better ones at equal strength.
    """
    return repair.mended < left - (-0.02 if repair.model.shows_logits else 0.05) * abs(left)


def _mended(finding: Finding, wrong: frozenset[str], how: str = "") -> Finding:
    """The finding, resolved where it is one of those that were `wrong`; `how` goes with what float64 mends."""
    said = f"; {how}" if how and finding.code == "gradient-underflow" else ""
    return finding.model_copy(
        update={"resolved": finding.code in wrong or finding.resolved, "evidence": finding.evidence + said}
    )


def reopened(findings: Sequence[Finding]) -> list[Finding]:
    """The findings; those that a detour was to mend are open again where a later check says that it did not."""
    masked = any(finding.code in STILL_MASKED and not finding.resolved for finding in findings)
    mendable = BROKEN_GRADIENT | {"blocked-gradient"}
    return [f.model_copy(update={"resolved": False}) if masked and f.code in mendable else f for f in findings]


def escalated(
    request: Request, evaluation: Evaluation, findings: Sequence[Finding], extra: Sequence[Attack] = ()
) -> Evaluation:
    """Where anything smells of a masked gradient, whatever still stands meets the `extra` attacks that the checks ask
    for, long attacks on the margin and a long search without gradients; what they break counts. Where logits are too
    large for the cross-entropy, they are scaled down and attacked with that. Else the evaluation as it is.
    """
    evaluation = _scaled_down(request, evaluation, findings)
    codes = {finding.code for finding in findings}
    doubted = any(warning.startswith((LOOK_MASKED, MISLED)) for warning in evaluation.warnings)
    left = unproved(request, evaluation)
    if not (codes & SMELLS or doubted or extra) or not left or not isinstance(request.threat, ThreatModel):
        return evaluation
    battery: list[Attack] = [
        *extra,
        PGD(steps=LONG, loss="margin", restarts=2),
        MultiTargeted(steps=LONG // 2, targets=5, random_start=True),
        *_other_detours(request, left),
        Square(queries=SEARCH // 5 if request.effort == "quick" else SEARCH),
    ]
    if not any(attack.access == "gradients" for attack in request.used(evaluation)):
        battery = [attack for attack in battery if attack.access != "gradients"]
    return _also(request, evaluation, left, battery, "what still stands", LOOK_MASKED)


def _other_detours(request: Request, left: Sequence[int]) -> list[Attack]:
    """Long attacks along the ways around a blocked gradient that were not the best one, and along the mean of all;
    where nothing looked blocked so far, along all that help on the images at `left`.
    """
    found = request.model if isinstance(request.model, Detoured) else None
    ways = [] if found is None else found.others
    if found is None and isinstance(request.threat, ThreatModel) and request.targets is None:
        seen, labels = _shown(request, left[:JUDGED_ON])
        repair = repaired(request.model, seen, labels, request.threat)
        found = None if repair is None else repair.model
        ways = [] if found is None else [found, *found.others]
    if found is None or not ways:
        return []
    long, mean = PGD(steps=LONG, loss="margin"), Averaged([found, *found.others])
    return [
        *(ThroughSurrogate(surrogate=way, attack=long, learnt=f"another detour: {way.ways}") for way in ways),
        ThroughSurrogate(surrogate=mean, attack=replace(long, restarts=2), learnt="the mean of all detours"),
    ]


def _shown(request: Request, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The images at `rows` and their labels, where the model is."""
    device = device_of(request.model, request.images[0:1])
    seen = Subset(request.images, list(rows))[0 : len(rows)].detach().to(device)
    return seen, request.labels[torch.tensor(list(rows))].to(device)


def _scaled_down(request: Request, evaluation: Evaluation, findings: Sequence[Finding]) -> Evaluation:
    """What stands, attacked with the cross-entropy of smaller logits where that of the model's own vanishes."""
    left = unproved(request, evaluation)
    if "vanishing-cross-entropy" not in {f.code for f in findings} or not left or request.targets is not None:
        return evaluation
    model = rescaled(request.model, *_shown(request, left[:JUDGED_ON]))
    again = replace(request, model=model)
    more = again.again(left, [PGD(steps=SCALED_STEPS)], "remedies: smaller logits", keep=True)
    plain = [replace(record, margin=None) for record in more.records]  # theirs are in other units
    named = [replace(stage, attack=f"{stage.attack} on smaller logits") for stage in more.stages]
    said = {stage.attack: f"{stage.attack} on smaller logits" for stage in more.stages}
    plain = [replace(r, broken_by=said.get(r.broken_by or "", r.broken_by)) for r in plain]
    return merged(evaluation, replace(more, records=tuple(plain), stages=tuple(named)), left, LOOK_MASKED)


def retried(request: Request, evaluation: Evaluation, near: Sequence[int], attacks: Sequence[Attack]) -> Evaluation:
    """The images at `near`, which a curve broke within the budget, meet its attacks and longer ones; what these break
    counts.
    """
    return _also(request, evaluation, near, attacks, "what a curve reached", "a curve broke them")


def _also(
    request: Request, evaluation: Evaluation, indices: Sequence[int], attacks: Sequence[Attack], what: str, why: str
) -> Evaluation:
    """`evaluation` with what those of `attacks` do to its images at `indices` that fit the threat and were not run."""
    ran = {stage.attack for stage in evaluation.stages if not stage.purpose}
    chosen = [a for a in dict.fromkeys(attacks) if request.threat.norm in a.threats and str(a) not in ran]
    if not indices or not chosen:
        return evaluation
    return merged(evaluation, request.again(indices, chosen, f"remedies: {what}", keep=True), indices, why)


def merged(evaluation: Evaluation, more: Evaluation, indices: Sequence[int], why: str) -> Evaluation:
    """`evaluation` with what `more` did to its images at `indices`; stages and passes are added."""
    records = list(evaluation.records)
    places = {record.index: place for place, record in enumerate(records)}
    for record in more.records:
        index = indices[record.index]
        old = records[places[index]]
        margins = [m for m in (old.margin, record.margin) if m is not None]
        records[places[index]] = replace(
            record,
            index=index,
            prediction=old.prediction,
            certified=old.certified,
            margin=min(margins, default=None),
            forwards=old.forwards + record.forwards,
            backwards=old.backwards + record.backwards,
        )
    robust = sum(r.prediction == r.label and r.broken_by is None for r in evaluation.records)
    stages: list[StageSummary] = list(evaluation.stages)
    for stage in more.stages:
        robust -= stage.broke
        after = proportion(max(robust, 0), len(records))
        stages.append(replace(stage, robust_after=after, purpose=f"remedy: {why}"))
    warnings = tuple(dict.fromkeys((*evaluation.warnings, *more.warnings)))
    return replace(
        evaluation,
        records=tuple(records),
        stages=tuple(stages),
        adversarials=evaluation.adversarials.joined(more.adversarials, indices),
        warnings=warnings,
        missed_bound=None,
    )
