"""Any attack of the table as the inner attack of training."""

from __future__ import annotations

import dataclasses
from functools import cache

from torch import Tensor

from sparring.attacks import Attack, parse
from sparring.batching import Plan
from sparring.errors import InputError
from sparring.goal import Untargeted
from sparring.hardening.method import Batch
from sparring.model import frozen_eval
from sparring.problem import Problem
from sparring.rng import Streams, digests
from sparring.threat import ThreatModel


@cache
def inner_attack(text: str) -> Attack:
    """The attack that `text` names; its solved images keep climbing, for a model learns little from a near miss.

    Raises `InputError` for text that names no attack, or one that needs no gradient (far too slow to train with).
    """
    attack = parse(text)
    if attack.access != "gradients":
        raise InputError(f"inner={text!r} does not use gradients: it would take hours per epoch; name one that does")
    if "early_stop" in {field.name for field in dataclasses.fields(attack)}:
        attack = dataclasses.replace(attack, early_stop=False)  # type: ignore[call-arg]
    return attack


def check_inner(text: str | None, threat: ThreatModel) -> None:
    """Raise now what the first step would."""
    if text is not None:
        inner_attack(text).check_threat(threat)


def crafted_by(text: str, batch: Batch) -> Tensor:
    """What the attack makes of the batch, in one piece."""
    attack = inner_attack(text)
    seed = int(batch.draws.integers(2**31, (), batch.images)[0])
    streams = Streams(seed, str(attack), digests(batch.images))
    how = Plan(len(batch.images), channels_last=False)
    with frozen_eval(batch.module):
        problem = Problem.build(batch.module, batch.images, Untargeted(batch.labels), batch.threat, streams, how)
        return attack.run(problem).detach()
