"""After the evaluation: comparisons that would reveal a blind attack. Each runs attacks only where it must."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.attacks import FGSM, PGD, Attack, RandomNoise, Square
from sparring.auditing.findings import FINDINGS
from sparring.auditing.report import Curve, Finding, Severity
from sparring.auditing.request import Request, sample
from sparring.estimate import Estimate, mcnemar, proportion
from sparring.evaluation import Evaluation
from sparring.evaluation.evaluation import MASKED as LOOK_MASKED
from sparring.evaluation.evaluation import survived
from sparring.evaluation.suspicions import INFINITE
from sparring.threat import Threat, ThreatModel

PAIRED_SAMPLE = 1000
"""Images on which attacks are compared with each other, at most."""
UNBOUNDED_SAMPLE = 64
ALLOWED_SURVIVORS = 0.05
GRADIENT_FREE = Square(queries=500)
GRADIENT_FREE_SAMPLE = 60
MASKED = frozenset(
    ("zero-gradient", "gradient-misleads", "noise-beats-gradient", "one-step-beats-many", "unbounded-survivors")
)
"""Findings that smell of a masked gradient."""
WHOLE_BOX_ATTACKS = (
    PGD(steps=50, loss="margin", restarts=2, schedule="constant"),
    PGD(steps=50, schedule="constant"),
)
Checked = tuple[list[Finding], list[Attack]]
"""Findings, and attacks that everyone should get because of what the check saw."""
LEAD = 0.01
"""Share of the images, one point, by which one attack must beat another before it is told, and ..."""
SURE = 0.01
"""... McNemar's p below which it is not taken for chance."""


def standing(request: Request, evaluation: Evaluation) -> Estimate:
    """The share that nobody broke, of the images there was something to attack about."""
    eligible = set(request.eligible())
    left = [survived(r) for r in evaluation.records if r.index in eligible]
    return proportion(sum(left), len(left))


def weaker_beats_stronger(request: Request, evaluation: Evaluation) -> list[Finding]:
    """Noise against gradients and one step against many, paired on the same images, a sample where there are many.

    What FGSM broke before the iterative attacks is given to them afresh; what noise broke after them they have
    missed already. "Beats" means at least one point more broken than the other way round, and McNemar's p < 0.01.
    """
    many = iterative(request, evaluation)
    if not many:
        return []
    chosen = sample(len(evaluation.records), PAIRED_SAMPLE, request.seed)
    records = [evaluation.records[place] for place in chosen]
    lead = max(1.0, LEAD * len(records))
    findings = []
    for weak, code in ((RandomNoise, "noise-beats-gradient"), (FGSM, "one-step-beats-many")):
        weaker = [a for a in request.used(evaluation) if isinstance(a, weak)]
        names, strong = {str(a) for a in weaker}, {str(a) for a in many}
        fallen = [r.index for r in records if r.broken_by in names]
        others = [r.index for r in records if r.broken_by in strong]
        if len(fallen) < lead:
            continue
        missed = _left(request, fallen, many, f"check: many steps against {weak.__name__}")
        if missed < lead:
            continue
        only_strong = _left(request, others, weaker, f"check: {weak.__name__} against many steps")
        p = mcnemar(missed, only_strong)
        if missed - only_strong >= lead and p < SURE:
            evidence = (
                f"{weak.__name__} broke {missed} images that {len(many)} iterative attacks could not; they broke "
                f"{only_strong} that it could not (McNemar p = {p:.1e}; {_of(len(records), len(evaluation.records))})"
            )
            findings.append(FINDINGS[code].found(evidence))
    return findings


def unbounded(request: Request, evaluation: Evaluation) -> list[Finding]:
    """An attacker with the whole box must break everything: tried on a few of the images that survived."""
    survivors = survivors_of(request, evaluation)
    chosen = [survivors[place] for place in sample(len(survivors), UNBOUNDED_SAMPLE, request.seed)]
    if len(chosen) < 5:
        return []
    box = whole_box(request.threat, request.images[0:1][0].numel())
    left = _left(request, chosen, WHOLE_BOX_ATTACKS, "check: the whole box as budget", box)
    if left <= ALLOWED_SURVIVORS * len(chosen):
        return []
    evidence = f"with the whole box as budget, {proportion(left, len(chosen))} of the tried survivors still stand"
    return [FINDINGS["unbounded-survivors"].found(evidence)]


def gradient_free(request: Request, evaluation: Evaluation, *, masked: bool) -> Checked:
    """A search that asks for logits only, on what gradients left: all of it where the gradient looks masked, else a
    sample. Where the evaluation held such an attack itself, what that one broke. Gradient attacks then get the images
    that fell once more; what still stands they could not break. If the sample lost one, everyone should get the search.
    """
    strong, n = iterative(request, evaluation), len(evaluation.records)
    search = [a for a in request.used(evaluation) if a.access != "gradients" and not isinstance(a, RandomNoise)]
    if not strong or (not search and request.threat.norm not in GRADIENT_FREE.threats):
        return [], []
    asked_for: list[Attack] = []
    if search:
        names = {str(attack) for attack in search}
        fallen = [r.index for r in evaluation.records if r.broken_by in names]
        weight, tried = 1.0, ""
    else:
        search, survivors = [GRADIENT_FREE], unproved(request, evaluation)
        most = len(survivors) if masked else GRADIENT_FREE_SAMPLE
        chosen = [survivors[place] for place in sample(len(survivors), most, request.seed)]
        if not chosen:
            return [], []
        again = request.again(chosen, search, "check: Square on what gradients left")
        fallen = [chosen[r.index] for r in again.records if r.broken_by is not None]
        weight, tried = len(survivors) / len(chosen), f" of {len(chosen)} tried"
        asked_for = [GRADIENT_FREE] if fallen else []
    if mcnemar(len(fallen), 0) >= SURE:
        return [], asked_for
    missed = _left(request, fallen, strong, "check: gradients on what Square broke")
    p, share = mcnemar(missed, 0), weight * missed / n
    if p >= SURE or share < LEAD:
        return [], asked_for
    evidence = (
        f"{', '.join(map(str, search))} broke {len(fallen)}{tried}; {missed} of these withstand every gradient attack, "
        f"which stands for {100 * share:.1f} points of all images (McNemar p = {p:.1e})"
    )
    return [FINDINGS["gradient-free-wins"].found(evidence)], asked_for


def survivors_of(request: Request, evaluation: Evaluation) -> list[int]:
    """The images there is something to attack about and that nobody broke."""
    eligible = set(request.eligible())
    return [r.index for r in evaluation.records if survived(r) and r.index in eligible]


def unproved(request: Request, evaluation: Evaluation) -> list[int]:
    """Those of them that were not spared because they are certified."""
    spared = {r.index for r in evaluation.records if r.certified and not r.attacked}
    return [i for i in survivors_of(request, evaluation) if i not in spared]


def iterative(request: Request, evaluation: Evaluation) -> list[Attack]:
    """The gradient attacks that ran, but for those of a single step."""
    return [a for a in request.used(evaluation) if a.access == "gradients" and not isinstance(a, FGSM)]


def whole_box(threat: Threat, size: int) -> ThreatModel:
    """The budget of an attacker who may turn any image of `size` numbers into any other, in the threat's norm."""
    low, high = threat.bounds
    reach = {"linf": high - low, "l2": (high - low) * size**0.5, "l1": (high - low) * size, "l0": float(size)}
    return ThreatModel(threat.norm, reach[threat.norm], threat.bounds)


def _left(
    request: Request, indices: list[int], attacks: Sequence[Attack], name: str, threat: Threat | None = None
) -> int:
    """How many of the images at `indices` survive `attacks`, under `threat` or the audit's own."""
    return sum(survived(r) for r in request.again(indices, attacks, name, threat).records) if indices else 0


def _of(tried: int, all_: int) -> str:
    return f"all {all_} images" if tried == all_ else f"a sample of {tried} of the {all_} images"


def from_stages(evaluation: Evaluation) -> list[Finding]:
    """What the stages noted while they ran."""
    findings = []
    notes = {note for stage in evaluation.stages for note in stage.notes}
    replaced = sorted(note for note in notes if "loss was used instead" in note)
    if replaced:
        findings.append(FINDINGS["loss-replaced"].found("; ".join(replaced), resolved=True))
    said = [warning for warning in evaluation.warnings if warning.startswith(INFINITE)]
    said += [f"{stage.attack}: {note}" for stage in evaluation.stages for note in stage.notes if "NaN" in note]
    if said:
        findings.append(FINDINGS["unusable-numbers"].found("; ".join(said)))
    doubts = [warning for warning in evaluation.warnings if warning.startswith(LOOK_MASKED)]
    if doubts:
        findings.append(FINDINGS["search-found-more"].found("; ".join(doubts)))
    threat = evaluation.threat
    if isinstance(threat, ThreatModel) and (
        threat.eps == 0 or (threat.mask is not None and not bool(threat.mask.any()))
    ):
        findings.append(FINDINGS["nothing-may-change"].found(f"{threat.norm} eps {threat.eps_text}"))
    if evaluation.targeted and evaluation.attack_success_rate.n == 0 and evaluation.complete:
        evidence = f"{len(evaluation.records)} images, all wrong already or labelled as their target"
        findings.append(FINDINGS["nothing-to-attack"].found(evidence))
    rejected = {stage.attack: stage.rejected for stage in evaluation.stages if stage.rejected}
    if rejected:
        evidence = "; ".join(f"{attack}: {count}" for attack, count in rejected.items())
        findings.append(FINDINGS["candidates-rejected"].found(evidence))
    if len(evaluation.records) < 100:
        findings.append(FINDINGS["small-sample"].found(f"{len(evaluation.records)} images"))
    return findings


def stronger_curve(curves: Sequence[Curve], robust: Estimate, eps: float) -> list[Finding]:
    """A curve that lies under what the evaluation left, `robust`, at the budget or before it: beyond its interval, or
    on the same images at all.
    """
    for curve in curves:
        for point in curve.points:
            here, n = point.accuracy, point.accuracy.n
            if point.eps > eps or here.value is None:
                continue
            if here.high < robust or (n == robust.n and here.value < robust - LEAD):
                evidence = (
                    f"{curve.attack} leaves {100 * here.value:.1f} % (n = {n}) at eps {point.eps:g}; headline {robust}"
                )
                return [FINDINGS["stronger-attack-found"].found(evidence)]
    return []


def evasion(evaluation: Evaluation) -> list[Finding]:
    """The main finding: how many of the attacked images fell."""
    rate = evaluation.attack_success_rate
    if not rate > 0:
        return []
    severity: Severity = "critical" if rate >= 0.5 else "warning" if rate >= 0.1 else "note"
    fell = "were turned into the chosen class" if evaluation.targeted else "fell"
    evidence = f"{rate} of the attacked images {fell} at {evaluation.threat.norm} eps {evaluation.threat.eps_text}"
    return [FINDINGS["evasion"].found(evidence, severity=severity)]
