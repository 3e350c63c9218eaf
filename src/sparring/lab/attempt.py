"""One picture before one model: the gradient that is computed once, attacks on it, and their verdicts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from sparring.attacks import FGSM, Attack
from sparring.attacks.base import opened
from sparring.attacks.minimal import MinimalAttack
from sparring.auditing.exhibit import Prediction
from sparring.auditing.pictures import class_name, from_8bit, to_8bit
from sparring.black_box import access_of
from sparring.errors import InputError
from sparring.goal import Goal, Targeted, Untargeted
from sparring.lab.subject import Subject
from sparring.model import frozen_eval, logits_of, probabilities
from sparring.problem import Gradient, Problem
from sparring.rng import Streams, digests
from sparring.threat import ThreatModel

PATIENCE = 60.0
"""Seconds that one attack may take."""
ONE_STEP = FGSM()


class TooSlowError(InputError):
    """An attack was stopped because it took too long for a page."""


class Timed(nn.Module):
    """A model that stops answering after some seconds: the only way to end an attack from outside."""

    def __init__(self, inner: nn.Module, seconds: float) -> None:
        super().__init__()
        self.inner, self._seconds, self._end = inner, seconds, time.monotonic() + seconds

    def forward(self, images: Tensor) -> Tensor:
        """The model's answer. Raises `TooSlowError` when the time is over."""
        if time.monotonic() > self._end:
            raise TooSlowError(
                f"stopped after {self._seconds:g} seconds: this picture needs fewer steps, or a quicker attack"
            )
        output: Tensor = self.inner(images)
        return output


@dataclass(frozen=True, eq=False)
class Attempt:
    """What an attack made of the picture (1, C, H, W), judged here: `success` says whether the exact tensor meets the
    goal inside the budget, `survives` whether its 8-bit picture, read again, still does.
    """

    attack: str
    threat: ThreatModel
    adversarial: Tensor = field(repr=False)
    logits: Tensor = field(repr=False)
    success: bool
    survives: bool
    distance: float
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Case:
    """A picture (1, C, H, W) before a model, and what the attacker wants: to leave the model's label, or a target."""

    subject: Subject
    image: Tensor
    target: int | None = None
    truth: int | None = None
    memory: dict[object, object] = field(default_factory=dict, repr=False)
    """What was found for this case, by whoever found it."""

    @cached_property
    def logits(self) -> Tensor:
        """The model's answer to the picture (K,)."""
        return self.asked(self.image)[0]

    @property
    def label(self) -> int:
        """What the model says."""
        return int(self.logits.argmax())

    @cached_property
    def goal(self) -> Goal:
        """Any other class than the label, or the target. Raises `InputError` for a target that is the label."""
        if self.target is None:
            return Untargeted(torch.tensor([self.label]))
        if self.target == self.label:
            name = class_name(self.label, self.subject.names)
            raise InputError(f"the model already says {name}: choose another target")
        if self.target >= len(self.logits):
            raise InputError(f"class {self.target} does not exist: the model has {len(self.logits)} classes")
        return Targeted(torch.tensor([self.target]))

    @cached_property
    def ray(self) -> Gradient:
        """The gradient of the attacked loss at the picture, from which every one-step attack follows."""
        subject, streams = self.subject, Streams(0, "lab", digests(self.image))
        anywhere = ThreatModel("linf", 1.0)
        with frozen_eval(subject.model), subject.plan.running():
            problem = Problem.build(subject.model, self.image, self.goal, anywhere, streams, subject.plan)
            return problem.gradient(self.image, ONE_STEP.loss)

    @property
    def offers_gradients(self) -> bool:
        """Whether the model shows its gradient."""
        return access_of(self.subject.model) == "gradients"

    def asked(self, images: Tensor) -> Tensor:
        """The model's logits (N, K) for images (N, C, H, W)."""
        with frozen_eval(self.subject.model), torch.no_grad(), self.subject.plan.running():
            return logits_of(self.subject.model, images).float()

    def stepped(self, threat: ThreatModel) -> Tensor:
        """FGSM's point (1, C, H, W), from the gradient that is already known."""
        region = threat.around(self.image)
        return region.project(self.image + region.steepest_step(self.ray.grad))

    def one_step(self, threat: ThreatModel) -> Attempt:
        """FGSM, at the price of one forward pass once the gradient is known."""
        start = time.perf_counter()
        attempt = self.judged(str(ONE_STEP), threat, self.stepped(threat), 1, 1, start)
        self.memory["one step", threat] = attempt.logits
        return attempt

    def after_one_step(self, threat: ThreatModel) -> Tensor:
        """The model's answer (K,) at FGSM's point, asked once."""
        known = self.memory.get(("one step", threat))
        return known if isinstance(known, Tensor) else self.one_step(threat).logits

    def attempted(
        self, attack: Attack, threat: ThreatModel, *, seed: int = 0, seconds: float = PATIENCE, nearest: bool = False
    ) -> Attempt:
        """Any attack; with `nearest`, one that can goes on to the nearest adversarial instead of any in the budget.

        Raises what the attack raises, and `TooSlowError`.
        """
        start, model = time.perf_counter(), self.subject.model
        if self.offers_gradients:
            model = Timed(model, seconds)
        generator = torch.Generator().manual_seed(seed)
        with opened(attack, model, self.image, self.goal, threat, generator) as problem:
            if nearest and isinstance(attack, MinimalAttack):
                found = problem.region.project(attack.nearest(problem.widened(), 0.0))
            else:
                found = attack.run(problem)
            forwards, backwards = int(problem.ledger.forwards[0]), int(problem.ledger.backwards[0])
        return self.judged(str(attack), threat, found, forwards, backwards, start)

    def judged(
        self, attack: str, threat: ThreatModel, found: Tensor, forwards: int, backwards: int, start: float
    ) -> Attempt:
        """The verdict on a candidate: budget and box checked, the model asked again, the 8-bit picture too."""
        seconds = time.perf_counter() - start
        rounded = from_8bit(to_8bit(found), found)
        answers = self.asked(torch.cat([found, rounded]))
        met = self.goal.is_met(answers[:1]) & threat.contains(self.image, found)
        return Attempt(
            attack=attack,
            threat=threat,
            adversarial=found,
            logits=answers[0],
            success=bool(met[0]),
            survives=bool(self.goal.is_met(answers[1:])[0]),
            distance=float(threat.distance(self.image, found)[0]),
            forwards=forwards,
            backwards=backwards,
            seconds=seconds,
        )


def best(logits: Tensor, names: tuple[str, ...] | None, top: int = 3) -> tuple[Prediction, ...]:
    """The most confident classes of one answer (K,), best first."""
    confidence = probabilities(logits[None])[0]
    found = confidence.topk(min(top, len(confidence)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return tuple(Prediction(label, class_name(label, names), value) for label, value in pairs)
