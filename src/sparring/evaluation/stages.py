"""What the driver runs, one after the other: an attack on some of the images that still stand, and why those."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.base import Attack
from sparring.evaluation.evaluation import State


@dataclass(frozen=True, eq=False)
class Stage:
    """`attack` on the images of `rows` (bool, (N,)) that still stand; all of them where it is None."""

    attack: Attack
    rows: Tensor | None = None
    purpose: str = ""


@dataclass(frozen=True)
class Setting:
    """What a plan may know besides. `doubtful()`: of the images that stand, those whose gradient does not foretell what
    a small step along it does to the margin, bool (N,). It costs a gradient and two forward passes on each.
    """

    norm: str
    access: str
    seed: int
    doubtful: Callable[[], Tensor]


Plan = Callable[[State, Setting], Iterator[Stage]]
"""Yields one stage after the other, and sees between two of them what the last one did to every image."""


def in_turn(attacks: Sequence[Attack]) -> Plan:
    """The plan that sends all that stand to each attack in turn."""

    def plan(state: State, setting: Setting) -> Iterator[Stage]:
        return (Stage(attack) for attack in attacks)

    return plan


def drawn(state: State, among: Tensor, count: int, purpose: str, seed: int) -> Tensor:
    """A random sample (bool, (N,)) of `count` of the images `among`; it depends on nothing but their contents (and how
    often the same image occurred before), `purpose` and `seed`. All of them where they are no more than `count`.
    """
    rows = among.nonzero().flatten().tolist()
    seen: Counter[str] = Counter()
    nth = {}
    for row in rows:
        nth[row] = seen[state.digests[row]]
        seen[state.digests[row]] += 1

    def key(row: int) -> bytes:
        return hashlib.blake2b(f"{seed}|{purpose}|{state.digests[row]}|{nth[row]}".encode()).digest()

    sample = torch.zeros_like(among)
    sample[sorted(rows, key=key)[:count]] = True
    return sample


def nearest(state: State, among: Tensor, count: int) -> Tensor:
    """The `count` images `among` (bool, (N,)) with the smallest margins so far; ties go by image digest."""
    margins = state.margin_values()
    rows = among.nonzero().flatten().tolist()
    chosen = torch.zeros_like(among)
    chosen[sorted(rows, key=lambda row: (float(margins[row]), state.digests[row], row))[:count]] = True
    return chosen
