"""What is proved before anything is attacked: the lower end of the bracket, at a bounded cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.auditing import curves
from sparring.auditing.findings import FINDINGS
from sparring.auditing.preflight import Preflight
from sparring.auditing.report import Bracket, Curve, CurvePoint, Finding, Interval
from sparring.auditing.request import Request
from sparring.black_box import access_of
from sparring.certification import Certificate, bracket
from sparring.certification.certify import Bounder, subject_of
from sparring.certification.graph import trace
from sparring.certification.region import full_precision
from sparring.certification.work import multiplications
from sparring.errors import UnsupportedError
from sparring.evaluation import Evaluation, Progress
from sparring.evaluation.evaluation import survived
from sparring.evaluation.task import Subset, Task
from sparring.losses import class_margin
from sparring.model import frozen_eval, logits_of
from sparring.threat import ThreatModel

METHOD = "crown-ibp"
TRIED = 32
"""Images with the largest margins that are tried first; if none of them is proved, the rest is left."""
WORK = 5e10
"""Multiplications that an audit spends on bounds at most, ten to twenty seconds on a core; the images with the largest
margins come first."""
ROUNDS = 3
"""Bounds per image: at the budget, and in search of the largest budget of the curves."""
UNSURE = frozenset(("random-outputs", "batch-dependence", "blocked-gradient"))


@dataclass(frozen=True, eq=False)
class Proof:
    """What came of it: a certificate for all images (unproved where not tried), how many were tried, and in `note` why
    there are no more.
    """

    certificate: Certificate | None
    tried: int
    note: str


def attempted(request: Request, ready: Preflight, task: Task) -> Proof | None:
    """Prove what can be proved cheaply; None where a certificate would not be about what is attacked: another threat
    than linf or l2, a chosen class, no gradients, random answers, a detour.
    """
    threat, model = request.threat, request.model
    fitting = isinstance(threat, ThreatModel) and threat.norm in ("linf", "l2") and threat.eps > 0
    shown = isinstance(model, nn.Module) and ready.differentiable and access_of(model) == "gradients"
    if not fitting or not shown or request.targets is not None or {f.code for f in ready.findings} & UNSURE:
        return None
    (found,) = task.ranks.gathered(lambda: [_tried(request, task)] if task.ranks.rank == 0 else [])
    return found


def _tried(request: Request, task: Task) -> Proof:
    threat, model = request.threat, request.model
    if not isinstance(threat, ThreatModel):
        raise TypeError(f"only l_p balls, got {type(threat).__name__}")
    try:
        layers = trace(model, task.read(slice(0, 1)), bounds=threat.bounds).layers()
    except (UnsupportedError, RuntimeError) as error:
        return Proof(None, 0, str(error).split(". ")[0].splitlines()[0])
    with frozen_eval(model), torch.no_grad(), full_precision():
        prediction, margin = _answers(request, task)
        classes = layers[-1].shape[0]
        per_image = multiplications(layers) * classes
        order = [i for i in margin.argsort(descending=True).tolist() if margin[i] > 0]
        affordable = int(WORK // (ROUNDS * per_image))
        prover = _Prover(request, task, Bounder(layers, threat, METHOD, 0, 0))
        first = order[: min(TRIED, affordable)]
        if not first:
            why = "no image is right" if not order else f"bounds for one image take {per_image:.1g} multiplications"
            return Proof(None, 0, why)
        lower = torch.full((len(margin),), math.nan)
        lower[first] = prover.least(first, [threat.eps] * len(first))
        if not bool((lower > 0).any()):
            return Proof(None, len(first), f"none of the {len(first)} images with the largest margins could be proved")
        rest = order[len(first) : affordable]
        lower[rest] = prover.least(rest, [threat.eps] * len(rest), told=True)
        proved = lower > 0
        radius = prover.reach(order[:affordable], proved, curves.budgets(threat))
    certificate = Certificate(
        METHOD, subject_of(task.read(slice(0, 1)).dtype), threat.norm, threat.eps, request.labels, prediction, proved,
        lower, radius,
    )  # fmt: skip
    left = len(order) - min(len(order), affordable)
    return Proof(certificate, min(len(order), affordable), f"{left} images were too many to be tried" if left else "")


def _answers(request: Request, task: Task) -> tuple[Tensor, Tensor]:
    """Prediction and margin (N,) of every image; the margin of a wrong one is not above 0."""
    said, margins, size = [], [], task.plan.batch_size
    for part in task.chunks():
        images, labels = task.read(part), request.labels[part].to(task.device)
        for x, y in zip(*(torch.split(part, size) for part in (images, labels)), strict=True):
            logits = logits_of(request.model, x.clone())  # a copy: the model may work in place
            said.append(logits.argmax(1).cpu())
            margins.append(class_margin(logits.float(), y).nan_to_num(nan=-1.0).cpu())
    return torch.cat(said), torch.cat(margins)


@dataclass(frozen=True, eq=False)
class _Prover:
    """Lower bounds of margins of some images of the set."""

    request: Request
    task: Task
    bounder: Bounder

    def least(self, rows: Sequence[int], budgets: Sequence[float], *, told: bool = False) -> Tensor:
        """The least margins, on the CPU."""
        size, found = self.bounder.at_once(self.task.images[0:1].to(self.task.device)), []
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            images = Subset(self.task.images, part)[0 : len(part)].detach().to(self.task.device)
            labels = self.request.labels[torch.tensor(part)].to(self.task.device)
            eps = torch.tensor(budgets[start : start + size], dtype=images.dtype, device=images.device)
            found.append(self.bounder.least(images, labels, eps).float().cpu())
            if told and self.request.progress is not None:
                done = min(start + size, len(rows))
                self.request.progress(Progress("bounds", 0, 1, done, len(rows), math.nan))
        return torch.cat(found) if found else torch.zeros(0)

    def reach(self, rows: Sequence[int], proved: Tensor, budgets: Sequence[float]) -> Tensor:
        """The largest of the rising `budgets` at which each of `rows` is proved, by halving; float64 (N,), else 0."""
        threat = self.bounder.threat
        here = min(range(len(budgets)), key=lambda place: abs(budgets[place] - threat.eps))
        steps = [*budgets[:here], max(budgets[here], threat.eps), *budgets[here + 1 :]]
        low = {i: here if bool(proved[i]) else 0 for i in rows}  # the first budget is 0
        high = {i: len(budgets) if bool(proved[i]) else here for i in rows}
        while tried := [i for i in rows if high[i] - low[i] > 1]:
            middle = {i: (low[i] + high[i]) // 2 for i in tried}
            held = self.least(tried, [steps[middle[i]] for i in tried]) > 0
            for i, ok in zip(tried, held.tolist(), strict=True):
                (low if ok else high)[i] = middle[i]
        radius = torch.zeros(len(proved), dtype=torch.float64)
        radius[list(rows)] = torch.tensor([steps[low[i]] for i in rows], dtype=torch.float64)
        return radius


def contradicted(evaluation: Evaluation, proof: Proof | None, nearest: dict[int, float]) -> list[int]:
    """Images that are proved and that an attack broke: in the evaluation, or (`nearest`: image to distance) in a curve
    within the radius that was proved.
    """
    if proof is None or proof.certificate is None or proof.certificate.radius is None:
        return []
    radius = proof.certificate.radius
    proved = proof.certificate.certified.tolist()
    broken = {record.index for record in evaluation.records if proved[record.index] and record.broken_by is not None}
    return sorted(broken | {i for i, distance in nearest.items() if distance < float(radius[i])})


def told(images: Sequence[int], proof: Proof | None) -> list[Finding]:
    """The finding against ourselves."""
    if not images or proof is None or proof.certificate is None:
        return []
    some = ", ".join(map(str, images[:8])) + (" and more" if len(images) > 8 else "")
    evidence = (
        f"{len(images)} of {int(proof.certificate.certified.sum())} images that {METHOD} proved fell to attacks: "
        f"{some}. The evaluation was run again with every image attacked, and no lower bound is shown"
    )
    return [FINDINGS["certificate-contradicted"].found(evidence)]


def section(proof: Proof | None, evaluation: Evaluation, wrong: Sequence[int], eps: Sequence[float]) -> Bracket | None:
    """The bracket as plain data, with certified accuracy at each of `eps`."""
    if proof is None or not evaluation.records:
        return None
    upper = Interval.of(evaluation.robust_accuracy)
    broken = [not survived(record) for record in evaluation.records]
    certificate = proof.certificate
    if certificate is None or wrong or len(broken) < len(certificate.labels):
        note = "an attack broke what was proved: no lower bound" if wrong else proof.note or "interrupted"
        return Bracket(
            method=METHOD,
            subject="",
            tried=proof.tried,
            certified=0,
            broken=sum(broken),
            unknown=len(broken) - sum(broken),
            attacked=0,
            lower=None,
            upper=upper,
            contradicted=tuple(wrong),
            note=note,
        )
    both = bracket(certificate, broken)
    points = tuple(CurvePoint(eps=e, accuracy=Interval.of(certificate.certified_at(e))) for e in eps)
    return Bracket(
        method=METHOD,
        subject=certificate.subject,
        tried=proof.tried,
        certified=both.status.count("certified"),
        broken=both.status.count("broken"),
        unknown=both.status.count("unknown"),
        attacked=sum(record.certified and record.attacked for record in evaluation.records),
        lower=Interval.of(both.lower),
        upper=upper,
        curve=Curve(attack=f"proved by {METHOD}, all images", norm=certificate.norm, points=points),
        note=proof.note,
    )
