"""The audit: preflight, evaluation, curves, checks, findings; one report, also when it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.attacks import FGSM, Attack, RandomNoise
from sparring.auditing import checks, sections
from sparring.auditing.findings import FINDINGS
from sparring.auditing.pictures import first_broken
from sparring.auditing.preflight import Preflight, preflight
from sparring.auditing.report import Attacker, Curve, CurvePoint, Finding, Gate, Interval, Picture, Report, Subject
from sparring.errors import InputError
from sparring.evaluation import Evaluation, EvaluationInterrupted, Progress, evaluate, robustness_curve
from sparring.evaluation.effort import chosen_attacks
from sparring.evaluation.task import Images, Subset, checked_task
from sparring.model import Model, device_of, logits_of, model_digest, model_name
from sparring.threat import ThreatModel

PREFLIGHT_SAMPLE = 256
CURVE_SAMPLE = 500
CURVE_STEPS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Multiples of eps at which the curves are measured."""


class AuditInterrupted(KeyboardInterrupt):
    """Ctrl-C during an audit; `report` is a valid report of what was known."""

    def __init__(self, report: Report) -> None:
        super().__init__("audit interrupted")
        self.report = report


@dataclass(frozen=True, eq=False)
class _Request:
    """What was asked for."""

    model: Model
    images: Images
    labels: Tensor
    threat: ThreatModel
    attacks: tuple[Attack, ...]
    targets: Tensor | None
    effort: str
    seed: int
    batch_size: int | None
    out: Path | None
    fail_under: float | None
    class_names: tuple[str, ...] | None
    model_name: str
    data_name: str
    progress: Callable[[Progress], None] | None


@dataclass(eq=False)
class _Draft:
    """What is known so far."""

    evaluation: Evaluation
    findings: list[Finding] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    pictures: tuple[Picture, ...] = ()
    complete: bool = False


def audit(
    model: Model,
    images: Images,
    labels: Tensor,
    threat: ThreatModel,
    *,
    effort: str = "standard",
    attacks: Sequence[Attack | str] | None = None,
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    fail_under: float | None = None,
    class_names: Sequence[str] | None = None,
    model_label: str | None = None,
    data_label: str = "images in memory",
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """The whole red-team exercise on `model` with `images` (N, C, H, W) and `labels` (N,), as a report.

    Preflight checks, evaluation (see `sparring.evaluate` for effort, attacks, targets, seed, batch_size and out),
    accuracy-against-epsilon curves, checks for a blind attack, per-class table, pictures. fail_under: the gate fails
    when the lower end of the robust accuracy's interval is below it, or when an unresolved finding says that the number
    can't be believed. class_names, model_label, data_label: how the report speaks of them.

    Raises what `evaluate` raises, and `AuditInterrupted` (with the report so far) on Ctrl-C.
    """
    if fail_under is not None and not 0 <= fail_under <= 1:
        raise InputError(f"fail_under must be a share between 0 and 1, got {fail_under!r}")
    started = time.perf_counter()
    task = checked_task(model, images, labels, targets, threat, seed, batch_size)
    sample = _sample(len(task.labels), PREFLIGHT_SAMPLE, seed)
    looked_at = Subset(images, sample)[0 : len(sample)].to(device_of(model))
    ready = preflight(model, looked_at, task.labels[torch.tensor(sample)].to(looked_at.device), threat.bounds)
    request = _Request(
        model=ready.model,
        images=images,
        labels=task.labels,
        threat=threat,
        attacks=_attacks(attacks, effort, ready.differentiable),
        targets=task.targets,
        effort=effort if attacks is None else "named attacks",
        seed=seed,
        batch_size=batch_size,
        out=None if out is None else Path(out),
        fail_under=fail_under,
        class_names=None if class_names is None else tuple(class_names),
        model_name=model_label or model_name(model),
        data_name=data_label,
        progress=progress,
    )
    draft, interrupted = _investigate(request, ready)
    report = _report(request, draft, started, logits_of(ready.model, looked_at[:1]).shape[1])
    if interrupted:
        raise AuditInterrupted(report)
    return report


def _investigate(request: _Request, ready: Preflight) -> tuple[_Draft, bool]:
    try:
        evaluation = evaluate(
            request.model,
            request.images,
            request.labels,
            request.threat,
            attacks=request.attacks,
            targets=request.targets,
            seed=request.seed,
            batch_size=request.batch_size,
            out=request.out,
            progress=request.progress,
        )
    except EvaluationInterrupted as stop:
        draft = _Draft(stop.evaluation, list(ready.findings))
        _conclude(request, draft)
        return draft, True
    draft = _Draft(evaluation, list(ready.findings))
    try:
        _curves(request, draft, ready.differentiable)
        if ready.differentiable and request.targets is None:
            draft.findings += checks.weaker_beats_stronger(
                request.model, request.images, request.labels, evaluation, request.attacks, request.batch_size
            )
            draft.findings += checks.unbounded(
                request.model, request.images, request.labels, evaluation, request.batch_size
            )
        draft.complete = True
    except KeyboardInterrupt:
        _conclude(request, draft)
        return draft, True
    _conclude(request, draft)
    return draft, False


def _conclude(request: _Request, draft: _Draft) -> None:
    draft.pictures = first_broken(request.model, request.images, draft.evaluation, request.class_names)
    draft.findings += checks.evasion(draft.evaluation) + checks.from_stages(draft.evaluation)
    if not draft.complete:
        done = [stage.attack for stage in draft.evaluation.stages if stage.complete]
        evidence = f"{len(done)} of {len(request.attacks)} attacks finished on all images"
        draft.findings.append(FINDINGS["interrupted"].found(evidence))
    used = {getattr(attack, "loss", None) for attack in request.attacks}
    if not used & {"margin", "dlr"}:
        draft.findings = [
            f.model_copy(update={"resolved": False}) if f.code == "vanishing-cross-entropy" else f
            for f in draft.findings
        ]


def _curves(request: _Request, draft: _Draft, differentiable: bool) -> None:
    """FGSM raw (it may rise again), PGD carried along; on a sample where the set is large."""
    threat = request.threat
    chosen = _sample(len(request.labels), CURVE_SAMPLE, request.seed)
    part, labels = Subset(request.images, chosen), request.labels[torch.tensor(chosen)]
    budgets = sorted({0.0, *(_budget(threat, step) for step in CURVE_STEPS)})
    wanted: list[tuple[str, Sequence[Attack] | None, bool]] = [
        ("fgsm", (FGSM(),), False),
        ("pgd, 20 steps, margin then cross-entropy", None, True),
    ]
    if not differentiable:
        wanted = [("random_noise", (RandomNoise(draws=20),), True)]
    for name, attacks, carry in wanted:
        curve = robustness_curve(
            request.model,
            part,
            labels,
            norm=threat.norm,
            eps=budgets,
            attacks=attacks,
            carry=carry,
            bounds=threat.bounds,
            mask=threat.mask,
            seed=request.seed,
            batch_size=request.batch_size,
            progress=_named(request.progress, f"curve of {name}"),
        )
        points = tuple(
            CurvePoint(eps=eps, accuracy=Interval.of(accuracy))
            for eps, accuracy in zip(curve.eps, curve.accuracy, strict=True)
        )
        draft.curves.append(Curve(attack=name, norm=curve.norm, points=points))
    at_budget = CurvePoint(eps=threat.eps, accuracy=Interval.of(draft.evaluation.robust_accuracy))
    draft.curves.append(Curve(attack="all attacks, all images", norm=threat.norm, points=(at_budget,)))


def _report(request: _Request, draft: _Draft, started: float, classes: int) -> Report:
    from sparring import __version__

    evaluation = draft.evaluation
    seconds = time.perf_counter() - started
    report = Report(
        sparring_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=draft.complete and evaluation.complete,
        seconds=seconds,
        seed=request.seed,
        effort=request.effort,
        subject=_subject(request, evaluation, classes),
        attacker=_attacker(request, evaluation, seconds),
        headline=_headline(evaluation),
        evaluation=sections.evaluation_section(evaluation),
        curves=tuple(draft.curves),
        cost=sections.cost_curve(evaluation),
        visibility=sections.visibility(evaluation, request.images),
        classes=sections.class_rows(evaluation, request.class_names),
        pictures=draft.pictures,
        findings=tuple(draft.findings),
    )
    return report.model_copy(update={"gate": _gate(report, request.fail_under)})


def _gate(report: Report, fail_under: float | None) -> Gate | None:
    if fail_under is None:
        return None
    low = report.evaluation.robust_accuracy.low
    doubts = sorted({f.code for f in report.findings if f.undermines and not f.resolved})
    reasons = []
    if low < fail_under:
        reasons.append(f"robust accuracy may be as low as {100 * low:.1f} %, under {100 * fail_under:.1f} %")
    if doubts:
        reasons.append(f"the number can't be believed: {', '.join(doubts)}")
    passed = not reasons
    return Gate(
        fail_under=fail_under,
        passed=passed,
        reason="; ".join(reasons)
        or f"robust accuracy is at least {100 * low:.1f} % (95 %), the mark is {100 * fail_under:.1f} %",
    )


def _headline(evaluation: Evaluation) -> str:
    threat, n = evaluation.threat, len(evaluation.records)
    clean, robust = evaluation.clean_accuracy, evaluation.robust_accuracy
    if n == 0:
        return "Nothing was measured yet."
    reach = {
        "linf": f"may change every pixel by up to {threat.eps_text}",
        "l2": f"may change the image by an l2 distance of up to {threat.eps_text}",
        "l1": f"may change the image by an l1 distance of up to {threat.eps_text}",
        "l0": f"may change up to {threat.eps_text} pixel values",
    }[threat.norm]
    aim = " towards a chosen class" if evaluation.targeted else ""
    return (
        f"Of {n} images the model gets {100 * clean:.1f} % right; an attacker who {reach}{aim} leaves it "
        f"at most {100 * robust:.1f} % (95 % interval {100 * robust.low:.1f} to {100 * robust.high:.1f})."
    )


def _subject(request: _Request, evaluation: Evaluation, classes: int) -> Subject:
    shape = tuple(request.images[0:1].shape[1:])
    model = request.model
    return Subject(
        model=request.model_name,
        model_digest=model_digest(model, shape, request.threat.bounds),
        parameters=sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else None,
        data=request.data_name,
        data_digest=sections.data_digest(evaluation),
        images=len(request.labels),
        shape=shape,
        classes=classes,
        class_names=request.class_names,
    )


def _attacker(request: _Request, evaluation: Evaluation, seconds: float) -> Attacker:
    threat = request.threat
    uses_gradients = any(attack.access == "gradients" for attack in request.attacks)
    mask = None if threat.mask is None else f"{int(threat.mask.sum())} of {threat.mask.numel()} values may change"
    most = max((r.forwards + r.backwards for r in evaluation.records), default=0)
    return Attacker(
        knowledge="white box: weights, gradients, logits" if uses_gradients else "black box: logits only",
        goal="any wrong class" if request.targets is None else "one chosen class per image",
        norm=threat.norm,
        eps=threat.eps,
        eps_text=threat.eps_text,
        bounds=threat.bounds,
        mask=mask,
        attacks=tuple(str(attack) for attack in request.attacks),
        queries=f"at most {most} forward and backward passes per image",
        compute=f"{device_of(request.model)}, {torch.get_num_threads()} threads, {seconds:.0f} s",
    )


def _attacks(attacks: Sequence[Attack | str] | None, effort: str, differentiable: bool) -> tuple[Attack, ...]:
    """The named attacks as they are; for an effort, FGSM goes with it. Without gradients, what needs none."""
    if attacks is not None:
        return tuple(chosen_attacks(attacks, effort))
    chosen = chosen_attacks(None, effort)
    if not differentiable:
        return (RandomNoise(draws=200),)
    noise = [attack for attack in chosen if isinstance(attack, RandomNoise)]
    return (*noise, FGSM(), *(attack for attack in chosen if attack not in noise))


def _budget(threat: ThreatModel, step: float) -> float:
    budget = float(f"{threat.eps * step:.12g}")
    if threat.norm == "l0":
        return float(round(budget))
    return min(budget, threat.bounds[1] - threat.bounds[0]) if threat.norm == "linf" else budget


def _sample(n: int, most: int, seed: int) -> list[int]:
    """At most `most` of n indices, drawn with the seed, in order."""
    if n <= most:
        return list(range(n))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:most].tolist())


def _named(progress: Callable[[Progress], None] | None, name: str) -> Callable[[Progress], None] | None:
    return None if progress is None else lambda event: progress(replace(event, stage=name))
