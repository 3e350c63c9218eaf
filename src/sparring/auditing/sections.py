"""Sections of the report that are computed from an evaluation: classes, visibility, cost, subject."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring import norms
from sparring.attacks import survives_8bit
from sparring.auditing.pictures import class_name
from sparring.auditing.report import (
    ClassRow,
    CostCurve,
    CostPoint,
    EvaluationSection,
    Interval,
    Spread,
    Stage,
    Visibility,
)
from sparring.estimate import Estimate, proportion
from sparring.evaluation import Evaluation
from sparring.evaluation.evaluation import survived
from sparring.evaluation.metrics import psnr, ssim, success_against_cost
from sparring.evaluation.task import Images, Subset
from sparring.goal import Goal, Targeted, Untargeted
from sparring.model import Model, device_of

VISIBILITY_SAMPLE = 512
VISIBILITY_BATCH = 32


def evaluation_section(
    evaluation: Evaluation, judged: tuple[Estimate, Estimate, Estimate] | None = None
) -> EvaluationSection:
    """The evaluation as plain data. judged: clean accuracy, robust accuracy and attack success, where they are means
    over draws.
    """
    clean, robust, success = judged or (
        evaluation.clean_accuracy,
        evaluation.robust_accuracy,
        evaluation.attack_success_rate,
    )
    stages = tuple(
        Stage(
            attack=stage.attack,
            tried=stage.tried,
            broke=stage.broke,
            robust_after=Interval.of(stage.robust_after),
            forwards=stage.forwards,
            backwards=stage.backwards,
            seconds=stage.seconds,
            rejected=stage.rejected,
            complete=stage.complete,
            notes=stage.notes,
            purpose=stage.purpose,
        )
        for stage in evaluation.stages
    )
    return EvaluationSection(
        clean_accuracy=Interval.of(clean),
        robust_accuracy=Interval.of(robust),
        attack_success_rate=Interval.of(success),
        missed_bound=evaluation.missed_bound,
        targeted=evaluation.targeted,
        complete=evaluation.complete,
        stages=stages,
        records=evaluation.records,
    )


def class_rows(evaluation: Evaluation, names: Sequence[str] | None) -> tuple[ClassRow, ...]:
    """Clean and robust accuracy of every class in the data, and what its broken images are taken for."""
    rows = []
    for label in sorted({r.label for r in evaluation.records}):
        mine = [r for r in evaluation.records if r.label == label]
        taken_for = Counter(r.adversarial_prediction for r in mine if r.adversarial_prediction is not None)
        rows.append(
            ClassRow(
                label=label,
                name=class_name(label, names),
                clean=Interval.of(proportion(sum(r.prediction == r.label for r in mine), len(mine))),
                robust=Interval.of(proportion(sum(survived(r) for r in mine), len(mine))),
                falls_to=class_name(taken_for.most_common(1)[0][0], names) if taken_for else None,
            )
        )
    return tuple(rows)


def visibility(evaluation: Evaluation, images: Images, model: Model) -> Visibility | None:
    """How visible the perturbations of the broken images are, and how many outlive a picture file (of a sample where
    there are very many).
    """
    shape = images[0:1].shape
    if len(shape) != 4 or min(shape[2:]) < 3 or not len(evaluation.adversarials):
        return None
    indices = list(evaluation.adversarials)
    if len(indices) > VISIBILITY_SAMPLE:
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(evaluation.seed))
        indices = sorted(indices[i] for i in order[:VISIBILITY_SAMPLE].tolist())
    bounds, measured, survivors = evaluation.threat.bounds, [], 0
    span = bounds[1] - bounds[0]
    for start in range(0, len(indices), VISIBILITY_BATCH):
        batch = indices[start : start + VISIBILITY_BATCH]
        original = Subset(images, batch)[0 : len(batch)]
        adversarial = torch.stack([evaluation.adversarials[index] for index in batch]).to(original)
        delta = (adversarial.double() - original.double()).flatten(1)
        distances = [norms.distance(delta, norm) for norm in ("l2", "linf")]
        likeness = [ssim(original, adversarial, span), psnr(original, adversarial, span)]
        measured.append(torch.stack([*distances, *likeness]).cpu())
        asked = adversarial.to(device_of(model, adversarial))
        survivors += int(survives_8bit(model, asked, _met_by(evaluation, batch).to(asked.device), bounds).sum())
    l2, linf, similarity, noise = (_spread(column) for column in torch.cat(measured, dim=1))
    share = Interval.of(proportion(survivors, len(indices)))
    return Visibility(images=len(indices), l2=l2, linf=linf, ssim=similarity, psnr=noise, survive_png=share)


def _met_by(evaluation: Evaluation, broken: Sequence[int]) -> Goal:
    """What the adversarials of these images reached: any class but the label, or the target."""
    records = {record.index: record for record in evaluation.records}
    if evaluation.targeted:
        return Targeted(torch.tensor([records[index].adversarial_prediction for index in broken]))
    return Untargeted(torch.tensor([records[index].label for index in broken]))


def cost_curve(evaluation: Evaluation) -> CostCurve:
    """Success against cost, from the records."""
    points = tuple(CostPoint(cost=c, broken=b) for c, b in success_against_cost(evaluation.records))
    return CostCurve(unit="forward and backward passes per image, all attacks in order", points=points)


def data_digest(evaluation: Evaluation) -> str:
    """Identity of the data: SHA-256 over every image's digest and label, in order, hex."""
    digest = hashlib.sha256()
    for record in evaluation.records:
        digest.update(f"{record.digest}|{record.label}\n".encode())
    return digest.hexdigest()


def _spread(values: Tensor) -> Spread:
    finite = values[values.isfinite()]
    if not len(finite):
        finite = torch.zeros(1, dtype=values.dtype)
    quantiles = torch.quantile(finite, torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype))
    p10, median, p90 = quantiles.tolist()
    return Spread(median=median, p10=p10, p90=p90)
