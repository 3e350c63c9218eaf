"""Defenses around the model, and what they do to a clean picture, a naive attack and attacks that know them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.auditing.exhibit import Prediction
from sparring.defenses import Stack, evaluate_stack
from sparring.defenses.detectors import DETECTORS, Fitted
from sparring.defenses.transforms import TRANSFORMS, parse
from sparring.errors import InputError, SparringError
from sparring.lab.attempt import PATIENCE, Case, Timed, TooSlowError, best
from sparring.lab.subject import Subject
from sparring.threat import ThreatModel

RATE = 0.05
"""Share of clean images that a detector may flag."""
LARGE = 20_000
"""Numbers in an image above which the search against transforms and detectors together takes minutes."""


@dataclass(frozen=True)
class Verdict:
    """What the bare model and the stack say of one picture. `through`: the stack gives a wrong answer and lets it
    pass. `scores`: detector to (score, threshold). `note` takes the place of the rest where there is no picture.
    """

    name: str
    bare: Prediction | None
    stack: Prediction | None
    flagged: bool
    scores: tuple[tuple[str, float, float], ...]
    through: bool
    distance: float = 0.0
    note: str = ""


def usable_transforms(subject: Subject) -> tuple[str, ...]:
    """The transforms that take such images."""
    return tuple(name for name in TRANSFORMS if _works(name, subject))


def usable_detectors() -> tuple[str, ...]:
    """The detectors that need only clean images, and no half of them to learn from."""
    return tuple(name for name, kind in DETECTORS.items() if not kind.learns)


def unfitted(case: Case, detectors: Sequence[str]) -> str:
    """What the page says while detectors are fitted; empty where all of them are."""
    waiting = [name for name in detectors if name not in case.subject.fitted]
    if not waiting:
        return ""
    return f"fitting {', '.join(waiting)} on {case.subject.clean_are}; that takes a while the first time …"


def built(case: Case, transforms: Sequence[str], detectors: Sequence[str]) -> Stack:
    """The stack around the bare model, its detectors fitted on the subject's clean images (once)."""
    fitted = [_fitted(case, name) for name in detectors]
    return Stack(case.subject.model, [parse(name) for name in transforms], fitted)


def verdicts(
    case: Case, threat: ThreatModel, attack: Attack, stack: Stack, seconds: float = PATIENCE
) -> Iterator[Verdict]:
    """The clean picture; the attack on the bare model, replayed; the attack through the transforms; and the search
    that follows transforms and detectors at once.
    """
    yield _verdict(case, stack, "no attack", case.image, threat)
    naive = case.attempted(attack, threat, seconds=seconds)
    yield _verdict(case, stack, f"naive: {attack} on the bare model", naive.adversarial, threat)
    if stack.transforms:
        name = f"adaptive: {attack} through the transforms"
        try:
            yield _verdict(case, stack, name, _through(case, stack, attack, threat, seconds), threat)
        except SparringError as error:
            yield Verdict(name, None, None, False, (), False, note=str(error))
    name = "adaptive: a search that follows the whole stack"
    if case.subject.size > LARGE or case.target is not None:
        why = "takes minutes for images of this size" if case.subject.size > LARGE else "is for any wrong class"
        yield Verdict(name, None, None, False, (), False, note=f"not here: it {why}; sparring compare does it")
        return
    label, end = torch.tensor([case.label]), time.monotonic() + seconds

    def watched(stage: str, standing: int) -> None:
        if time.monotonic() > end:
            raise TooSlowError(f"stopped after {seconds:g} seconds; sparring compare has more patience")

    try:
        outcome = evaluate_stack(stack, case.image, label, threat, effort="quick", progress=watched)
    except SparringError as error:
        yield Verdict(name, None, None, False, (), False, note=str(error))
        return
    found = case.image if outcome.adversarials is None else outcome.adversarials
    by = outcome.records[0].broken_by
    yield _verdict(case, stack, f"{name}{'' if by is None else f' ({by})'}", found, threat)


def detection(case: Case, detectors: Sequence[str], image: Tensor) -> tuple[tuple[str, float, float], ...]:
    """Scores of a picture (1, C, H, W) with their thresholds."""
    if not detectors:
        return ()
    return _scores(built(case, (), detectors), image)[1]


def _verdict(case: Case, stack: Stack, name: str, image: Tensor, threat: ThreatModel) -> Verdict:
    decision, scores = _scores(stack, image)
    said = best(decision, case.subject.names, 1)[0]
    flagged = any(score > threshold for _, score, threshold in scores)
    met = said.label != case.label if case.target is None else said.label == case.target
    far = float(threat.distance(case.image, image)[0])
    bare = best(case.asked(image)[0], case.subject.names, 1)[0]
    return Verdict(name, bare, said, flagged, scores, met and not flagged, far)


def _scores(stack: Stack, image: Tensor) -> tuple[Tensor, tuple[tuple[str, float, float], ...]]:
    decision = stack(image, generator=torch.Generator().manual_seed(0))
    rows = zip(stack.detectors, decision.scores[0].tolist(), strict=True)
    return decision.logits[0].float(), tuple((fitted.name, score, fitted.threshold) for fitted, score in rows)


def _through(case: Case, stack: Stack, attack: Attack, threat: ThreatModel, seconds: float) -> Tensor:
    """The attack on transforms and model as one."""
    model = Timed(stack.as_model(), seconds)
    generator = torch.Generator().manual_seed(0)
    return attack(model, case.image, case.goal, threat, generator=generator)


def _fitted(case: Case, name: str) -> Fitted:
    """From the subject's shelf, else fitted now."""
    if name not in DETECTORS:
        raise InputError(f"there is no detector {name!r}")
    shelf = case.subject.fitted
    if name not in shelf:
        shelf[name] = DETECTORS[name]().fit(case.subject.model, case.subject.clean(), fpr=RATE)
    return shelf[name]


def _works(name: str, subject: Subject) -> bool:
    try:
        parse(name)(torch.full((1, *subject.shape), 0.5))
    except SparringError:
        return False
    return True
