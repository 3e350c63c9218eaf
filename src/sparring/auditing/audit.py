"""The audit: preflight, evaluation, curves, checks, findings; one report, also when it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks import FGSM, Attack, RandomNoise
from sparring.auditing import checks
from sparring.auditing.compose import Draft, Request, compose
from sparring.auditing.findings import FINDINGS
from sparring.auditing.pictures import first_broken
from sparring.auditing.preflight import Preflight, preflight
from sparring.auditing.report import Curve, CurvePoint, Interval, Report
from sparring.errors import InputError
from sparring.evaluation import EvaluationInterrupted, Progress, evaluate, robustness_curve
from sparring.evaluation.effort import chosen_attacks
from sparring.evaluation.task import Images, Subset, checked_task
from sparring.model import Model, device_of, model_name
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
    with task.plan.running():
        sample = _sample(len(task.labels), PREFLIGHT_SAMPLE, seed)
        looked_at = Subset(images, sample)[0 : len(sample)].to(device_of(model))
        known = task.labels[torch.tensor(sample)].to(looked_at.device)
        ready = preflight(model, looked_at, known, threat.bounds, min(64, task.plan.batch_size))
        request = Request(
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
        report = compose(request, draft, started, ready.classes)
    if interrupted:
        raise AuditInterrupted(report)
    return report


def _investigate(request: Request, ready: Preflight) -> tuple[Draft, bool]:
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
        draft = Draft(stop.evaluation, list(ready.findings))
        _conclude(request, draft)
        return draft, True
    draft = Draft(evaluation, list(ready.findings))
    try:
        if request.targets is None:
            _curves(request, draft, ready.differentiable)
        if ready.differentiable and request.targets is None:
            draft.findings += checks.weaker_beats_stronger(
                request.model, request.images, request.labels, evaluation, request.attacks, request.batch_size
            )
            draft.findings += checks.unbounded(
                request.model, request.images, request.labels, evaluation, request.batch_size
            )
        draft.findings += checks.stronger_curve(draft.curves, evaluation)
        if request.targets is not None:
            draft.findings.append(FINDINGS["targeted-unchecked"].found("targets were given"))
        draft.complete = True
    except KeyboardInterrupt:
        _conclude(request, draft)
        return draft, True
    _conclude(request, draft)
    return draft, False


def _conclude(request: Request, draft: Draft) -> None:
    draft.pictures = first_broken(request.model, request.images, draft.evaluation, request.class_names)
    draft.findings += checks.evasion(draft.evaluation) + checks.from_stages(draft.evaluation)
    if not draft.complete:
        done = [stage.attack for stage in draft.evaluation.stages if stage.complete]
        missing = "the curves and checks after them did not" if draft.evaluation.complete else "the rest did not"
        evidence = f"{len(done)} of {len(request.attacks)} attacks finished on all images, {missing}"
        finding = FINDINGS["interrupted"].found(evidence)
        draft.findings.append(finding)
    used = {getattr(attack, "loss", None) for attack in request.attacks}
    if not used & {"margin", "dlr"}:
        draft.findings = [
            f.model_copy(update={"resolved": False}) if f.code == "vanishing-cross-entropy" else f
            for f in draft.findings
        ]


def _curves(request: Request, draft: Draft, differentiable: bool) -> None:
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


def _attacks(attacks: Sequence[Attack | str] | None, effort: str, differentiable: bool) -> tuple[Attack, ...]:
    """The named attacks as they are; for an effort, FGSM goes with it. Without gradients, what needs none."""
    if attacks is not None:
        return tuple(chosen_attacks(attacks, effort))
    chosen = chosen_attacks(None, effort)
    if not differentiable:
        return (RandomNoise(draws=200),)
    return (FGSM(), *chosen)


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
