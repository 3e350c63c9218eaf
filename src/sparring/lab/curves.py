"""Confidence against epsilon with the first flip, and the loss along the gradient beside its first-order line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sparring.attacks import Attack
from sparring.lab.attempt import ONE_STEP, PATIENCE, Case
from sparring.lab.settings import LEVELS, threat_at
from sparring.losses import cross_entropy
from sparring.model import probabilities
from sparring.threat import ThreatModel

COARSE = (0, 1, 2, 4, 6, 8, 12, 16, 20, LEVELS)
"""Levels at which an attack of several steps is run; between the last that held and the first that fell, halves."""


@dataclass(frozen=True)
class Point:
    """One level: confidence in the class that the model said at first, and in the wanted one (the target, else the
    strongest other); `fell`: the goal is met here.
    """

    level: int
    eps: float
    label: float
    other: float
    fell: bool


@dataclass(frozen=True)
class Confidence:
    """Confidence against epsilon under one attack; `whole` says whether every point is there, `note` why not."""

    attack: str
    norm: str
    points: tuple[Point, ...]
    whole: bool
    note: str = ""

    @property
    def first_flip(self) -> Point | None:
        """The smallest level at which the goal is met."""
        return next((point for point in self.points if point.fell), None)

    @property
    def holds_at(self) -> Point | None:
        """The level before the first flip among those tried."""
        flip = self.first_flip
        return max((p for p in self.points if flip is not None and p.level < flip.level), default=None, key=_level)


@dataclass(frozen=True)
class Line:
    """The attacked loss along FGSM's steps: as it is, and as its gradient at the picture foretells it."""

    norm: str
    eps: tuple[float, ...]
    true: tuple[float, ...]
    straight: tuple[float, ...]


def known(case: Case, attack: Attack, norm: str) -> Confidence | None:
    """The curve if it was drawn before."""
    found = case.memory.get(("confidence", str(attack), norm))
    return found if isinstance(found, Confidence) else None


def confidence(case: Case, attack: Attack, norm: str, seconds: float = PATIENCE) -> Iterator[Confidence]:
    """The curve as it fills: for one step at once, else level by level; after `seconds` it stays as far as it came."""
    key = ("confidence", str(attack), norm)
    before = known(case, attack, norm)
    if before is not None:
        yield before
        return
    done: dict[int, Point] = {}
    for curve in _filled(case, attack, norm, done, time.monotonic() + seconds):
        if curve.whole:
            case.memory[key] = curve
        yield curve


def _filled(case: Case, attack: Attack, norm: str, done: dict[int, Point], end: float) -> Iterator[Confidence]:
    name = str(attack)
    if attack == ONE_STEP:
        done.update({point.level: point for point in _one_step(case, norm)})
        yield _curve(name, norm, done, whole=True)
        return
    while (level := _next(done)) is not None:
        if time.monotonic() > end:
            yield _curve(name, norm, done, whole=True, note="the attack is slow: only some of the levels were tried")
            return
        done[level] = _attacked(case, attack, threat_at(norm, level, case.subject.size), level)
        yield _curve(name, norm, done, whole=_next(done) is None)


def _curve(name: str, norm: str, done: dict[int, Point], *, whole: bool, note: str = "") -> Confidence:
    return Confidence(name, norm, tuple(done[level] for level in sorted(done)), whole, note)


def _next(done: dict[int, Point]) -> int | None:
    """The next coarse level; then halves between the last that held and the first that fell."""
    ahead = next((level for level in COARSE if level not in done), None)
    if ahead is not None:
        return ahead
    fell = min((level for level, point in done.items() if point.fell), default=None)
    if not fell:
        return None
    held = max(level for level in done if level < fell)
    return None if fell - held == 1 else (held + fell) // 2


def _attacked(case: Case, attack: Attack, threat: ThreatModel, level: int) -> Point:
    if level == 0:
        return _points(case, case.logits[None], [threat.eps], [0])[0]
    attempt = case.attempted(attack, threat)
    return _points(case, attempt.logits[None], [threat.eps], [level])[0]


def _one_step(case: Case, norm: str) -> list[Point]:
    logits, threats = _along(case, norm)
    return _points(case, logits, [threat.eps for threat in threats], list(range(LEVELS + 1)))


def _points(case: Case, logits: torch.Tensor, eps: list[float], levels: list[int]) -> list[Point]:
    shares = probabilities(logits)
    label = shares[:, case.label]
    others = shares.clone()
    others[:, case.label] = -1
    other = others.amax(1) if case.target is None else shares[:, case.target]
    answers = logits.argmax(1)
    fell = answers != case.label if case.target is None else answers == case.target
    rows = zip(levels, eps, label.tolist(), other.tolist(), fell.tolist(), strict=True)
    return [Point(*row) for row in rows]


def _along(case: Case, norm: str) -> tuple[torch.Tensor, list[ThreatModel]]:
    """Logits (L, K) at FGSM's point of every level, kept with the case."""
    threats = [threat_at(norm, level, case.subject.size) for level in range(LEVELS + 1)]
    key = ("along", norm)
    if key not in case.memory:
        points = torch.cat([case.stepped(threat) for threat in threats])
        case.memory[key] = torch.cat([case.asked(part) for part in torch.split(points, 8)])
    logits = case.memory[key]
    return (logits if isinstance(logits, torch.Tensor) else case.logits[None]), threats


def loss_line(case: Case, norm: str) -> Line:
    """Cross-entropy (for a target, minus its cross-entropy) along FGSM's steps, and L(x) + ∇L·δ for the same steps."""
    known = case.memory.get(("line", norm))
    if isinstance(known, Line):
        return known
    logits, threats = _along(case, norm)
    reference = case.goal.reference.expand(len(logits))
    true = cross_entropy(logits, type(case.goal)(reference))
    steps = torch.cat([case.stepped(threat) - case.image for threat in threats])
    straight = case.ray.values + (steps * case.ray.grad).flatten(1).sum(1)
    line = Line(norm, tuple(t.eps for t in threats), tuple(true.tolist()), tuple(straight.tolist()))
    case.memory["line", norm] = line
    return line


def _level(point: Point) -> int:
    return point.level
