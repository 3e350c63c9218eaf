"""The audit: preflight, evaluation, curves, checks, findings; one report, also when it is interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.auditing import checks, curves, draws, insight, proofs, remedies, strength
from sparring.auditing.compose import Draft, compose
from sparring.auditing.findings import FINDINGS
from sparring.auditing.pictures import first_broken
from sparring.auditing.preflight import Preflight, preflight
from sparring.auditing.report import Finding, Report
from sparring.auditing.request import Request, sample
from sparring.black_box import BlackBox, access_of
from sparring.diagnosis.randomised import Drawn
from sparring.errors import InputError
from sparring.evaluation import EFFORTS, Evaluation, EvaluationInterrupted, Progress
from sparring.evaluation.driver import DISPROVED
from sparring.evaluation.effort import chosen_plan
from sparring.evaluation.task import Images, Subset, checked_task
from sparring.model import Model, model_name
from sparring.rng import seeded
from sparring.threat import Threat, ThreatModel

PREFLIGHT_SAMPLE = 256


class AuditInterrupted(KeyboardInterrupt):
    """Ctrl-C during an audit; `report` is a valid report of what was known."""

    def __init__(self, report: Report) -> None:
        super().__init__("audit interrupted")
        self.report = report


def audit(
    model: Model,
    images: Images,
    labels: Tensor,
    threat: Threat,
    *,
    effort: str = "standard",
    attacks: Sequence[Attack | str] | None = None,
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    fail_under: float | None = None,
    baseline: Report | None = None,
    class_names: Sequence[str] | None = None,
    model_label: str | None = None,
    data_label: str = "images in memory",
    setup: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """The whole red-team exercise on `model` with `images` (N, C, H, W) and `labels` (N,), as a report.

    Preflight checks, evaluation (see `sparring.evaluate` for effort, attacks, targets, seed, batch_size and out),
    accuracy-against-epsilon curves, checks for a blind attack, per-class table, pictures. fail_under: the gate fails
    when the lower end of the robust accuracy's interval is below it, or when an unresolved finding says that the number
    can't be believed. baseline: an older report, with which this one is compared image by image. class_names,
    model_label, data_label: how the report speaks of them. setup: lines of Python that define model, images and labels
    (targets, mask); the scripts that replay the findings begin with them.

    Raises what `evaluate` raises, and `AuditInterrupted` (with the report so far) on Ctrl-C; with `out` a second call
    goes on from there, curves and checks included.
    """
    _check_gate(fail_under)
    if baseline is not None and not isinstance(baseline, Report):
        raise InputError(f"baseline must be a Report (load_report reads one), got {type(baseline).__name__}")
    started = time.perf_counter()
    task = checked_task(model, images, labels, targets, threat, seed, batch_size)
    with task.plan.running(), seeded(seed, "audit"):
        chosen = sample(len(task.labels), PREFLIGHT_SAMPLE, seed)
        looked_at = Subset(images, chosen)[0 : len(chosen)].to(task.device)
        known = task.labels[torch.tensor(chosen)].to(looked_at.device)
        ready = preflight(model, looked_at, known, threat.bounds, min(64, task.plan.batch_size))
        if access_of(model) == "gradients":
            ready = remedies.mended(ready, looked_at, known, threat)
        request = Request(
            model=ready.model if ready.differentiable or attacks is not None else BlackBox(ready.model),
            images=images,
            labels=task.labels,
            threat=threat,
            attacks=chosen_plan(attacks, effort)[1],
            named=attacks is not None,
            targets=task.targets,
            effort=effort,
            seed=seed,
            batch_size=batch_size,
            out=None if out is None else Path(out),
            fail_under=fail_under,
            class_names=None if class_names is None else tuple(class_names),
            model_name=model_label or model_name(model),
            data_name=data_label,
            setup=setup,
            adapted=ready.adapted,
            baseline=baseline,
            progress=progress,
        )
        draft = _investigate(request, ready, proofs.attempted(request, ready, task))
        try:
            report = compose(request, draft, started, ready.classes)
        except KeyboardInterrupt:  # all is known: write it down, and leave then
            report = compose(request, draft, started, ready.classes)
            raise AuditInterrupted(report) from None
    if not draft.complete:
        raise AuditInterrupted(report)
    return report


def _check_gate(fail_under: object) -> None:
    number = isinstance(fail_under, (int, float)) and not isinstance(fail_under, bool)
    if fail_under is not None and not (number and 0 <= fail_under <= 1):  # type: ignore[operator]
        raise InputError(f"fail_under must be a number between 0 and 1, got {fail_under!r}")


def _investigate(request: Request, ready: Preflight, proof: proofs.Proof | None) -> Draft:
    random, proved = _random(request, ready), None if proof is None else proof.certificate
    try:
        first = EFFORTS["quick"].everyone[:2] if random and not request.named else None
        evaluation = request.evaluated(first, certified=proved)
    except EvaluationInterrupted as stop:
        evaluation = stop.evaluation
    draft = Draft(evaluation, list(ready.findings), proof=proof)
    try:
        if evaluation.complete and random:
            evaluation, draft.drawn = draws.judged(request, evaluation)
        elif evaluation.complete:
            _look_closer(request, ready, draft)
            if draft.contradicted and DISPROVED not in evaluation.warnings:
                draft.evaluation = evaluation = request.evaluated()
            again = (*curves.QUICK, *EFFORTS["standard"].close)
            evaluation = remedies.retried(request, evaluation, draft.near, again)
            evaluation = remedies.escalated(request, evaluation, draft.findings, draft.asked_for)
            _beside_the_curves(request, evaluation, draft)
        draft.evaluation, draft.checked = evaluation, evaluation.complete
        draft.diagnosis = insight.diagnosed(request, ready) if evaluation.complete else None
        draft.pictures = first_broken(request.model, request.images, evaluation, request.class_names)
        draft.complete = evaluation.complete
    except KeyboardInterrupt:
        pass  # what is missing is told as a finding
    draft.findings = remedies.reopened(draft.findings) + proofs.told(draft.contradicted, proof)
    draft.findings += checks.evasion(evaluation) + checks.from_stages(evaluation)
    if not draft.complete:
        draft.findings.append(_interrupted(request, draft))
    draft.findings = [_settled(finding, request.used(evaluation), draft.drawn) for finding in draft.findings]
    return draft


def _random(request: Request, ready: Preflight) -> bool:
    """Is this a model to be attacked in expectation: random, differentiable, in an l_p ball, with no class to reach?"""
    said = any(finding.code == "random-outputs" for finding in ready.findings)
    return said and ready.differentiable and isinstance(request.threat, ThreatModel) and request.targets is None


def _look_closer(request: Request, ready: Preflight, draft: Draft) -> None:
    """Curves and comparisons of attacks. They speak of l_p balls; other threats have none."""
    threat, evaluation = request.threat, draft.evaluation
    if not isinstance(threat, ThreatModel):
        return
    nearest: dict[int, float] = {}
    for measured in curves.measured(request, threat, ready.differentiable):
        draft.curves.append(measured.curve)
        nearest |= measured.distances
    draft.contradicted = tuple(proofs.contradicted(evaluation, draft.proof, nearest))
    if request.named:  # what was asked for, before anything is added to it
        draft.findings += checks.stronger_curve(draft.curves, checks.standing(request, evaluation), threat.eps)
    else:  # where a curve came nearer than the evaluation
        draft.near = [i for i in checks.unproved(request, evaluation) if nearest.get(i, math.inf) <= threat.eps]
    if ready.differentiable:
        draft.findings += checks.weaker_beats_stronger(request, evaluation)
        draft.findings += checks.unbounded(request, evaluation)
        for check in (strength.more_steps, strength.transferred, strength.silent):
            found, asked_for = check(request, evaluation)
            draft.findings += found
            draft.asked_for += asked_for
        draft.findings += strength.not_growing(draft.curves, threat.eps) + strength.never_asked(request, evaluation)
        suspicious = {finding.code for finding in draft.findings}
        if "random-outputs" not in suspicious:  # any draw that fails would count as broken
            found, asked_for = checks.gradient_free(request, evaluation, masked=bool(suspicious & checks.MASKED))
            draft.findings += found
            draft.asked_for += asked_for


def _beside_the_curves(request: Request, evaluation: Evaluation, draft: Draft) -> None:
    """The final number beside the curves: one that still lies under it shows that the attacks were too weak."""
    if isinstance(request.threat, ThreatModel):
        left = checks.standing(request, evaluation)
        if not request.named:
            draft.findings += checks.stronger_curve(draft.curves, left, request.threat.eps)
        draft.curves.append(curves.headline_point(request.threat, left, targeted=evaluation.targeted))


def _interrupted(request: Request, draft: Draft) -> Finding:
    """While attacks, or the checks that may call for more of them, are missing, the number can't be believed."""
    done = sum(stage.complete for stage in draft.evaluation.stages)
    complete = draft.evaluation.complete
    missing = "the curves, checks and pictures after them did not all" if complete else "the rest did not"
    planned = f"{done} of {len(request.attacks)} attacks" if request.named else f"{done} attacks"
    evidence = f"{planned} finished on all their images, {missing}"
    return FINDINGS["interrupted"].found(evidence, harmless=draft.checked)


def _settled(finding: Finding, used: list[Attack], drawn: Drawn | None) -> Finding:
    """Vanishing gradients of the cross-entropy are an open matter if every gradient attack climbed that loss;
    randomness is none once it was attacked in expectation.
    """
    if finding.code == "random-outputs" and drawn is not None:
        said = f"; attacked in expectation, every number is a mean over {drawn.draws} fresh draws"
        return finding.model_copy(update={"resolved": True, "evidence": finding.evidence + said})
    losses = {getattr(attack, "loss", None) for attack in used if attack.access == "gradients"}
    if finding.code == "vanishing-cross-entropy" and losses <= {"cross_entropy"}:
        return finding.model_copy(update={"resolved": False})
    return finding
