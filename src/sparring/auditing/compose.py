"""From a request and what was found to the report: plain data, put into words where a person reads first."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import nn

from sparring.attacks import Attack
from sparring.auditing import proofs, sections
from sparring.auditing.baseline import NAMED, compare_reports, regression
from sparring.auditing.checks import standing
from sparring.auditing.draws import mean_of
from sparring.auditing.proofs import Proof
from sparring.auditing.replay import with_replay
from sparring.auditing.report import Attacker, Curve, Finding, Gate, Interval, Picture, Report, Subject
from sparring.auditing.request import Request
from sparring.diagnosis.randomised import Drawn
from sparring.diagnosis.result import Diagnosis
from sparring.estimate import Estimate
from sparring.evaluation import Evaluation
from sparring.model import device_of, model_digest
from sparring.threat import Threat


@dataclass(eq=False)
class Draft:
    """What is known so far."""

    evaluation: Evaluation
    findings: list[Finding] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    pictures: tuple[Picture, ...] = ()
    complete: bool = False
    checked: bool = False
    drawn: Drawn | None = None
    proof: Proof | None = None
    contradicted: tuple[int, ...] = ()
    diagnosis: Diagnosis | None = None
    asked_for: list[Attack] = field(default_factory=list)
    near: list[int] = field(default_factory=list)


def compose(request: Request, draft: Draft, started: float, classes: int) -> Report:
    """The report of what is known. `started` is a `time.perf_counter` reading, `classes` the number of logits."""
    from sparring import __version__

    evaluation = draft.evaluation
    judged = None if draft.drawn is None else _judged(draft.drawn)
    steps = sorted({point.eps for curve in draft.curves for point in curve.points})
    proved = proofs.section(draft.proof, evaluation, draft.contradicted, steps or [request.threat.eps])
    seconds = time.perf_counter() - started
    report = Report(
        sparring_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=draft.complete and evaluation.complete,
        seconds=seconds,
        seed=request.seed,
        effort=NAMED if request.named else request.effort,
        subject=_subject(request, evaluation, classes),
        attacker=_attacker(request, evaluation, seconds),
        headline=headline(
            evaluation, random=_unsettled(draft), judged=judged, proved=None if proved is None else proved.lower
        ),
        evaluation=sections.evaluation_section(evaluation, judged),
        bracket=proved,
        curves=tuple(draft.curves),
        cost=sections.cost_curve(evaluation),
        diagnosis=draft.diagnosis,
        visibility=sections.visibility(evaluation, request.images, request.model),
        classes=sections.class_rows(evaluation, request.class_names),
        pictures=draft.pictures,
        findings=tuple(draft.findings),
    )
    comparison = None if request.baseline is None else compare_reports(request.baseline, report)
    findings = [*draft.findings, *([] if comparison is None else regression(comparison))]
    replayed = tuple(with_replay(finding, request, evaluation, comparison) for finding in findings)
    report = report.model_copy(update={"findings": replayed, "comparison": comparison})
    judged_by = standing(request, evaluation).low if evaluation.targeted else report.evaluation.robust_accuracy.low
    return report.model_copy(update={"gate": _gate(report, request.fail_under, judged_by)})


def _unsettled(draft: Draft) -> bool:
    return any(f.code == "random-outputs" and not f.resolved for f in draft.findings)


def _judged(drawn: Drawn) -> tuple[Estimate, Estimate, Estimate]:
    """Clean accuracy, robust accuracy and attack success as means over fresh draws."""
    clean, robust = mean_of(drawn.clean), mean_of(drawn.worst)
    right = drawn.clean > 0
    lost = 1 - drawn.worst[right] / drawn.clean[right]
    return clean, robust, mean_of(lost) if bool(right.any()) else Estimate(0.0, 0.0, 1.0, 0)


def _gate(report: Report, fail_under: float | None, low: float) -> Gate | None:
    """low: the lower end of the interval of what stands, of the images there was something to attack about."""
    if fail_under is None:
        return None
    doubts = sorted({f.code for f in report.findings if f.undermines and not f.resolved})
    reasons = []
    if low < fail_under:
        reasons.append(f"the interval after these attacks begins at {100 * low:.1f} %, under {100 * fail_under:.1f} %")
    if doubts:
        reasons.append(f"the number can't be believed: {', '.join(doubts)}")
    passed = not reasons
    return Gate(
        fail_under=fail_under,
        passed=passed,
        reason="; ".join(reasons)
        or f"the lower end of the interval after these attacks is {100 * low:.1f} %, the mark {100 * fail_under:.1f} %",
    )


def headline(
    evaluation: Evaluation,
    *,
    random: bool,
    judged: tuple[Estimate, Estimate, Estimate] | None = None,
    proved: Interval | None = None,
) -> str:
    """What was found, in one sentence. What attacks found holds at least, what they left at most; neither for a model
    whose answers are `random`, where another draw may go either way.
    """
    n, clean = len(evaluation.records), evaluation.clean_accuracy
    if n == 0:
        return "Nothing was measured yet."
    share = evaluation.attack_success_rate if evaluation.targeted else evaluation.robust_accuracy
    if judged is not None:
        clean, share, _ = judged
    interval = f"(95 % interval {100 * share.low:.1f} to {100 * share.high:.1f})"
    begin = f"Of {n} images the model gets {100 * clean:.1f} % right; an attacker who {_reach(evaluation.threat)}"
    drawn = ", in this draw of its random answers" if random else ", averaged over fresh draws" if judged else ""
    if not evaluation.targeted:
        least = f"; {100 * proved.value:.1f} % are proved" if proved is not None and proved.value else ""
        return f"{begin} leaves it {'' if random else 'at most '}{100 * share:.1f} % {interval}{drawn}{least}."
    if share.n == 0:
        return f"{begin} found no image to turn into the chosen class."
    found = "none" if not share > 0 else f"{'' if random else 'at least '}{100 * share:.1f} %"
    return f"{begin} reaches the chosen class on {found} of the {share.n} images attacked {interval}{drawn}."


def _reach(threat: Threat) -> str:
    mask = getattr(threat, "mask", None)
    what = "every pixel" if mask is None else f"{int(mask.sum())} of {mask.numel()} values"
    image = "the image" if mask is None else what
    ways = {
        "linf": f"may change {what} by up to {{}}",
        "l2": f"may change {image} by an l2 distance of up to {{}}",
        "l1": f"may change {image} by an l1 distance of up to {{}}",
        "l0": "may change up to {} pixel values" + ("" if mask is None else f" among {what}"),
    }
    return ways.get(threat.norm, f"has a {threat.norm} budget of {{}}").format(threat.eps_text)


def _subject(request: Request, evaluation: Evaluation, classes: int) -> Subject:
    first = request.images[0:1]
    shape = tuple(first.shape[1:])
    model = request.model
    return Subject(
        model=request.model_name,
        model_digest=model_digest(model, shape, request.threat.bounds, first),
        parameters=sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else None,
        data=request.data_name,
        data_digest=sections.data_digest(evaluation),
        images=len(request.labels),
        shape=shape,
        classes=classes,
        class_names=request.class_names,
    )


def _attacker(request: Request, evaluation: Evaluation, seconds: float) -> Attacker:
    threat = request.threat
    mask = getattr(threat, "mask", None)
    device, threads = device_of(request.model, request.images[0:1]), torch.get_num_threads()
    most = max((r.forwards + r.backwards for r in evaluation.records), default=0)
    return Attacker(
        knowledge=_knowledge(request, evaluation),
        goal="any wrong class" if request.targets is None else "one chosen class per image",
        norm=threat.norm,
        eps=threat.eps,
        eps_text=threat.eps_text,
        bounds=threat.bounds,
        mask=None if mask is None else f"{int(mask.sum())} of {mask.numel()} values may change",
        attacks=_attacks(request, evaluation),
        queries=f"at most {most} forward and backward passes per image",
        compute=f"{device}, {threads} {'thread' if threads == 1 else 'threads'}, {seconds:.0f} s",
    )


def _attacks(request: Request, evaluation: Evaluation) -> tuple[str, ...]:
    """The named attacks; of an effort, those that ran, each once."""
    names = request.attacks if request.named else (stage.attack for stage in evaluation.stages)
    return tuple(dict.fromkeys(map(str, names)))


def _knowledge(request: Request, evaluation: Evaluation) -> str:
    """What the attacks made use of."""
    used = {attack.access for attack in request.used(evaluation)}
    if "gradients" in used:
        return "white box: weights, gradients, logits"
    return "black box: labels only" if used == {"labels"} else "black box: logits only"
