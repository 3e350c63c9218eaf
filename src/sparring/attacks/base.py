"""The one parent of all attacks: the public call. A subclass is a frozen dataclass that writes only `run`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import norms
from sparring.batching import plan
from sparring.black_box import ACCESS, access_of
from sparring.errors import InputError, UnsupportedError, unknown
from sparring.goal import Goal, Targeted, Untargeted
from sparring.model import Model, device_of, frozen_eval
from sparring.problem import Problem, check_images
from sparring.rng import Streams, base_seed, digests
from sparring.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Searches, for every image, a point of the threat's region that meets the goal.

    An attack returns candidates and never certifies itself: `sparring.evaluate` checks box and budget and asks
    the model again.
    """

    access: ClassVar[str] = "gradients"
    """What it needs of the model: "gradients", "logits" or "labels"."""
    threats: ClassVar[tuple[str, ...]] = norms.NORMS
    """The norms, or other kinds of threat, it works in."""
    paper: ClassVar[str] = ""

    def __call__(
        self,
        model: Model,
        images: Tensor,
        goal: Goal,
        threat: Threat,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adversarial candidates for `images` (N, C, H, W), same shape and dtype; where the attack found none,
        its nearest miss. `generator` gives the seed (seed 0 without one).

        Raises `InputError` for bad images or labels, `UnsupportedError` for a norm the attack does not know.
        """
        with opened(self, model, images, goal, threat, generator) as problem:
            return self.run(problem)

    @abstractmethod
    def run(self, problem: Problem) -> Tensor:
        """Candidates (N, C, H, W) for the images of `problem`, all inside its region."""

    def check_threat(self, threat: Threat) -> None:
        """Raise `UnsupportedError` if this attack does not work in the threat's norm."""
        if threat.norm not in self.threats:
            raise UnsupportedError(
                f"{type(self).__name__} works in {', '.join(self.threats)}, not in {threat.norm}: choose another attack"
            )

    def check_access(self, model: Model, threat: Threat) -> None:
        """Raise `UnsupportedError`, naming attacks that would do, if `model` shows less than this attack needs."""
        shown = access_of(model)
        if shown == "gradients" or self.access in ACCESS[: ACCESS.index(shown) + 1]:
            return
        from sparring.attacks import ATTACKS

        enough = ACCESS[: ACCESS.index(shown) + 1]
        usable = [name for name, kind in ATTACKS.items() if kind.access in enough and threat.norm in kind.threats]
        raise UnsupportedError(
            f"{self} needs {self.access}, but the model was declared to show only {shown}; in {threat.norm} "
            f"these need no more: {', '.join(usable) or 'none that sparring knows'}"
        )

    def __str__(self) -> str:
        """The form that the command line reads: `pgd:steps=40,restarts=5`."""
        from sparring.attacks.spec import format_attack

        return format_attack(self)


@contextmanager
def opened(
    attack: Attack, model: Model, images: Tensor, goal: Goal, threat: Threat, generator: torch.Generator | None
) -> Iterator[Problem]:
    """The checked problem of a direct call, with the model frozen while the block runs."""
    check_images(images, threat.bounds)
    check_goal(goal, len(images))
    attack.check_threat(threat)
    attack.check_access(model, threat)
    streams = Streams(base_seed(generator), str(attack), digests(images))
    images, goal = images.detach(), goal.to(images.device)
    check_device(model, images)
    how = plan(model, images)
    with frozen_eval(model), how.running():
        yield Problem.build(model, images, goal, threat, streams, how)


def check_device(model: Model, images: Tensor) -> None:
    """Raise `InputError` unless images and model are in one place: a direct call moves nothing but the goal."""
    there = device_of(model, images)
    if there != images.device:
        raise InputError(
            f"the images are on {images.device}, the model is on {there}: pass images.to({str(there)!r}), or let "
            "sparring.evaluate move them piece by piece"
        )


def check_goal(goal: Goal, n: int) -> None:
    """Raise `InputError` unless `goal` is a goal for `n` images."""
    if not isinstance(goal, (Untargeted, Targeted)):
        raise InputError(
            f"goal must be Untargeted(labels) or Targeted(targets), got {type(goal).__name__}: "
            "wrap the labels, so that they cannot be mistaken for targets"
        )
    if len(goal.reference) != n:
        raise InputError(f"{len(goal.reference)} labels or targets for {n} images: give one per image")


def at_least(name: str, value: float, low: float, *, whole: bool = False) -> None:
    """Raise `InputError` unless `value` is a number (whole if asked) not below `low`."""
    right_type = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right_type or not low <= value < math.inf:
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{name} must be {kind} >= {low:g}, got {value!r}")


def checked_flag(name: str, value: object) -> None:
    """Raise `InputError` unless `value` is True or False: the text "no" would otherwise count as true."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


def checked_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `InputError`, naming the nearest, unless `value` is one of `choices`."""
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise InputError(unknown(name, value, known))
