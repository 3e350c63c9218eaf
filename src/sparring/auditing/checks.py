"""After the evaluation: comparisons that would reveal a blind attack. Each runs attacks only where it must."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.attacks import FGSM, PGD, Attack, RandomNoise
from sparring.auditing.findings import FINDINGS
from sparring.auditing.report import Curve, Finding, Severity
from sparring.estimate import mcnemar, proportion
from sparring.evaluation import Evaluation, evaluate
from sparring.evaluation.evaluation import survived
from sparring.evaluation.task import Images, Subset
from sparring.model import Model
from sparring.threat import ThreatModel

UNBOUNDED_SAMPLE = 64
ALLOWED_SURVIVORS = 0.05


def weaker_beats_stronger(
    model: Model,
    images: Images,
    labels: Tensor,
    evaluation: Evaluation,
    attacks: Sequence[Attack],
    batch_size: int | None,
) -> list[Finding]:
    """Noise against gradients and one step against many, paired on the same images.

    What FGSM broke before the iterative attacks is given to them afresh; what noise broke after them they have
    missed already. "Beats" means at least one point more broken than the other way round, and McNemar's p < 0.01.
    """
    iterative = [a for a in attacks if a.access == "gradients" and not isinstance(a, FGSM)]
    if not iterative:
        return []
    findings = []
    for weak, code in ((RandomNoise, "noise-beats-gradient"), (FGSM, "one-step-beats-many")):
        weaker = [a for a in attacks if isinstance(a, weak)]
        names, strong = {str(a) for a in weaker}, {str(a) for a in iterative}
        fallen = [r.index for r in evaluation.records if r.broken_by in names]
        others = [r.index for r in evaluation.records if r.broken_by in strong]
        if len(fallen) < 0.01 * len(evaluation.records):
            continue
        missed = _standing(model, images, labels, evaluation, fallen, iterative, batch_size)
        lead = 0.01 * len(evaluation.records)
        if missed < lead:
            continue
        only_strong = _standing(model, images, labels, evaluation, others, weaker, batch_size)
        p = mcnemar(missed, only_strong)
        if missed - only_strong >= lead and p < 0.01:
            evidence = (
                f"{weak.__name__} broke {missed} images that {len(iterative)} iterative attacks could not; they broke "
                f"{only_strong} that it could not (McNemar p = {p:.1e})"
            )
            findings.append(FINDINGS[code].found(evidence))
    return findings


def _standing(
    model: Model,
    images: Images,
    labels: Tensor,
    evaluation: Evaluation,
    indices: list[int],
    attacks: Sequence[Attack],
    batch_size: int | None,
    threat: ThreatModel | None = None,
) -> int:
    """How many of the images at `indices` survive `attacks`, under `threat` or the evaluation's own."""
    if not indices:
        return 0
    found = evaluate(
        model,
        Subset(images, indices),
        labels[torch.tensor(indices)],
        threat or evaluation.threat,
        attacks=attacks,
        seed=evaluation.seed,
        batch_size=batch_size,
        keep=False,
    )
    return sum(survived(r) for r in found.records)


def unbounded(
    model: Model, images: Images, labels: Tensor, evaluation: Evaluation, batch_size: int | None
) -> list[Finding]:
    """An attacker with the whole box must break everything: tried on a few of the images that survived."""
    standing = [r.index for r in evaluation.records if survived(r)]
    sample = [standing[i] for i in torch.randperm(len(standing), generator=_seeded(evaluation.seed)).tolist()]
    sample = sample[:UNBOUNDED_SAMPLE]
    if len(sample) < 5 or evaluation.targeted:
        return []
    shape = images[0:1][0].shape
    low, high = evaluation.threat.bounds
    everything = {
        "linf": high - low,
        "l2": (high - low) * shape.numel() ** 0.5,
        "l1": (high - low) * shape.numel(),
        "l0": shape.numel(),
    }
    threat = ThreatModel(evaluation.threat.norm, everything[evaluation.threat.norm], evaluation.threat.bounds)
    attacks = [PGD(steps=50, loss="margin", restarts=2, schedule="constant"), PGD(steps=50, schedule="constant")]
    left = _standing(model, images, labels, evaluation, sample, attacks, batch_size, threat)
    if left <= ALLOWED_SURVIVORS * len(sample):
        return []
    evidence = f"with the whole box as budget, {proportion(left, len(sample))} of the tried survivors still stand"
    return [FINDINGS["unbounded-survivors"].found(evidence)]


def from_stages(evaluation: Evaluation) -> list[Finding]:
    """What the stages noted while they ran."""
    findings = []
    notes = {note for stage in evaluation.stages for note in stage.notes}
    replaced = sorted(note for note in notes if "loss was used instead" in note)
    if replaced:
        findings.append(FINDINGS["loss-replaced"].found("; ".join(replaced), resolved=True))
    broken_numbers = sorted(note for note in notes if "NaN" in note)
    if broken_numbers:
        findings.append(FINDINGS["unusable-numbers"].found("; ".join(broken_numbers)))
    rejected = {stage.attack: stage.rejected for stage in evaluation.stages if stage.rejected}
    if rejected:
        evidence = "; ".join(f"{attack}: {count}" for attack, count in rejected.items())
        findings.append(FINDINGS["candidates-rejected"].found(evidence))
    if len(evaluation.records) < 100:
        findings.append(FINDINGS["small-sample"].found(f"{len(evaluation.records)} images"))
    return findings


def stronger_curve(curves: Sequence[Curve], evaluation: Evaluation) -> list[Finding]:
    """A curve that lies under the robust accuracy at the budget: beyond its interval, or on the same images at all."""
    robust = evaluation.robust_accuracy
    for curve in curves:
        for point in curve.points:
            here, n = point.accuracy, point.accuracy.n
            if point.eps > evaluation.threat.eps or here.value is None:
                continue
            if here.high < robust or (n == robust.n and here.value < robust - 0.01):
                evidence = (
                    f"{curve.attack} leaves {100 * here.value:.1f} % (n = {n}) at eps {point.eps:g}; headline {robust}"
                )
                return [FINDINGS["stronger-attack-found"].found(evidence)]
    return []


def evasion(evaluation: Evaluation) -> list[Finding]:
    """The main finding: how many correctly classified images fell."""
    rate = evaluation.attack_success_rate
    if not rate > 0:
        return []
    severity: Severity = "critical" if rate >= 0.5 else "warning" if rate >= 0.1 else "note"
    evidence = f"{rate} of the attacked images fell at {evaluation.threat.norm} eps {evaluation.threat.eps_text}"
    return [FINDINGS["evasion"].found(evidence, severity=severity)]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
