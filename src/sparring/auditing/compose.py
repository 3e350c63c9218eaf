"""From a request and what was found to the report: plain data, put into words where a person reads first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.attacks import Attack
from sparring.auditing import sections
from sparring.auditing.report import Attacker, Curve, Finding, Gate, Picture, Report, Subject
from sparring.evaluation import Evaluation, Progress
from sparring.evaluation.task import Images
from sparring.model import Model, device_of, model_digest
from sparring.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Request:
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
class Draft:
    """What is known so far."""

    evaluation: Evaluation
    findings: list[Finding] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    pictures: tuple[Picture, ...] = ()
    complete: bool = False


def compose(request: Request, draft: Draft, started: float, classes: int) -> Report:
    """The report of what is known. `started` is a `time.perf_counter` reading, `classes` the number of logits."""
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


def _subject(request: Request, evaluation: Evaluation, classes: int) -> Subject:
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


def _attacker(request: Request, evaluation: Evaluation, seconds: float) -> Attacker:
    threat = request.threat
    uses_gradients = any(attack.access == "gradients" for attack in request.attacks)
    mask = None if threat.mask is None else f"{int(threat.mask.sum())} of {threat.mask.numel()} values may change"
    threads = torch.get_num_threads()
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
        compute=f"{device_of(request.model)}, {threads} {'thread' if threads == 1 else 'threads'}, {seconds:.0f} s",
    )
