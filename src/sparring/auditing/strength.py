"""Checks that ask whether the attacks were strong enough: more budget, more steps, a surrogate, a better memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sparring.attacks import ATTACKS, FGSM, MIFGSM, PGD, Attack
from sparring.auditing.checks import LEAD, SURE, Checked, iterative, unproved
from sparring.auditing.findings import FINDINGS
from sparring.auditing.report import Curve, Finding
from sparring.auditing.request import Request, sample
from sparring.diagnosis.indirect import BestSeen, ThroughSurrogate, forwards_only_to_verify, known
from sparring.diagnosis.transfer import distilled
from sparring.estimate import mcnemar
from sparring.evaluation import Evaluation
from sparring.evaluation.evaluation import survived
from sparring.evaluation.task import Subset
from sparring.model import device_of

SAMPLE = 60
"""Survivors that more steps and a surrogate are tried on."""
ROUNDS = 3
FEW = 5
"""Images that must have fallen at the budget before their number is expected to grow."""
GROWTH = 0.2
"""Of the images that fell at the budget, the share that must fall besides at the largest of the curve's."""
QUERIES, EPOCHS = 256, 15


def not_growing(curves: Sequence[Curve], eps: float) -> list[Finding]:
    """Distances of adversarials spread out: where some lie within the budget, more lie within three times of it. One
    raw step need not find them: it may overshoot on an honest model.
    """
    for curve in curves:
        if curve.attack == str(FGSM()):
            continue
        points = [p for p in curve.points if p.accuracy.value is not None]
        within = [p for p in points if p.eps <= eps * (1 + 1e-9)]
        if len(within) < 2 or points[-1].eps < 2 * eps:
            continue
        n = points[0].accuracy.n
        clean, here, far = (round(n * (p.accuracy.value or 0.0)) for p in (points[0], within[-1], points[-1]))
        fell, more = clean - here, here - far
        if fell >= FEW and more < GROWTH * fell and far >= max(0.1 * clean, GROWTH * fell):
            evidence = (
                f"{curve.attack}: {fell} of {clean} fall at eps {eps:g}, only {more} more at {points[-1].eps:g}, "
                f"and {far} stand"
            )
            return [FINDINGS["success-does-not-grow"].found(evidence)]
    return []


def more_steps(request: Request, evaluation: Evaluation) -> Checked:
    """The longest PGD of the evaluation, or else its longest attack, again and again with four times the steps and
    twice the restarts on a sample of what stands. An evaluation with a spot check has asked the same already.
    """
    strong = [a for a in iterative(request, evaluation) if hasattr(a, "steps") and not isinstance(a, FGSM)]
    survivors = unproved(request, evaluation)
    if evaluation.missed_bound is not None or not strong or not survivors:
        return [], []
    longest = max(strong, key=lambda a: (isinstance(a, PGD), a.steps))
    chosen = [survivors[place] for place in sample(len(survivors), SAMPLE, request.seed)]
    left, found, attack, settled = chosen, 0, longest, False
    useful: Attack | None = None
    for number in range(1, ROUNDS + 1):
        attack = _longer(attack)
        again = request.again(left, [attack], f"check: more steps, round {number}")
        stand = [left[r.index] for r in again.records if survived(r)]
        gained = len(left) - len(stand)
        if not _clear(gained, len(survivors) / len(chosen), len(evaluation.records)):
            settled = True
            break
        left, found, useful = stand, found + gained, attack
        if not left:
            break
    if useful is None:
        return [], []
    evidence = (
        f"{useful} breaks {found} of {len(chosen)} images that {longest} and all others left"
        f"{'; as many times more breaks hardly more' if settled else ''}; everyone got it"
    )
    return [FINDINGS["more-steps-help"].found(evidence, resolved=settled or not left)], [useful]


def transferred(request: Request, evaluation: Evaluation) -> Checked:
    """A small net learns the model's answers and is attacked; what fools it is tried on a sample of what stands."""
    survivors = unproved(request, evaluation)
    picture = request.images[0:1].dim() == 4
    if not iterative(request, evaluation) or len(survivors) < 8 or not picture or request.targets is not None:
        return [], []
    chosen = [survivors[place] for place in sample(len(survivors), SAMPLE, request.seed)]
    rows = sample(len(request.labels), QUERIES, request.seed)
    seen = Subset(request.images, rows)[0 : len(rows)].to(device_of(request.model, request.images[0:1]))
    student = distilled(request.model, seen, queries=QUERIES, epochs=EPOCHS, seed=request.seed)
    attack = ThroughSurrogate(
        surrogate=student, attack=MIFGSM(early_stop=False), learnt=f"distilled from {QUERIES} answers"
    )
    if request.threat.norm not in attack.threats:
        return [], []
    again = request.again(chosen, [attack], "check: a surrogate")
    fallen = sum(not survived(r) for r in again.records)
    if not _clear(fallen, len(survivors) / len(chosen), len(evaluation.records)):
        return [], []
    evidence = f"{attack}, breaks {fallen} of {len(chosen)} images that every attack with the model's gradient left"
    return [FINDINGS["transfer-wins"].found(evidence)], [attack]


def silent(request: Request, evaluation: Evaluation) -> Checked:
    """Attacks of others: did one pass by an adversarial and return something else?"""
    found: list[Finding] = []
    extra: list[Attack] = []
    survivors = unproved(request, evaluation)
    chosen = [survivors[place] for place in sample(len(survivors), SAMPLE, request.seed)]
    for attack in request.used(evaluation) if chosen else []:
        if known(type(attack), ATTACKS):
            continue
        best = BestSeen(attack)
        again = request.again(chosen, [attack, best], "check: points passed by")
        missed = sum(r.broken_by == str(best) for r in again.records)
        if missed:
            evidence = f"{attack} looked at adversarials of {missed} of {len(chosen)} images and returned others"
            found.append(FINDINGS["silent-success"].found(evidence, resolved=True))
            extra.append(best)
    return found, extra


def never_asked(request: Request, evaluation: Evaluation) -> list[Finding]:
    """Attacks with gradients that have seen none of this model's: they were made on another."""
    white = {str(attack) for attack in request.used(evaluation) if attack.access == "gradients"}
    stages = [s for s in evaluation.stages if s.attack in white and s.complete]
    blind = [s for s in stages if forwards_only_to_verify(s.tried, s.forwards, s.backwards)]
    if not blind or len(blind) < len(stages):
        return []
    broke = sum(s.broke for s in blind)
    evidence = (
        f"{', '.join(s.attack for s in blind)} asked this model nothing and broke {broke} of {blind[0].tried} images"
    )
    return [FINDINGS["surrogate-only"].found(evidence)]


def _longer(attack: Attack) -> Attack:
    changes = {"steps": 4 * attack.steps}  # type: ignore[attr-defined]
    if hasattr(attack, "restarts") and getattr(attack, "random_start", True):
        changes["restarts"] = 2 * attack.restarts
    return dataclasses.replace(attack, **changes)


def _clear(fallen: int, weight: float, n: int) -> bool:
    """More than chance, and at least a point of all images."""
    return mcnemar(fallen, 0) < SURE and weight * fallen >= LEAD * n
