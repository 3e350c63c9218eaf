"""What is set on the page, and how a link carries it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import urlencode

from sparring.attacks import ATTACKS, Attack, parse
from sparring.attacks.wrapper import Wrapper
from sparring.errors import InputError, unknown
from sparring.norms import NORMS
from sparring.threat import ThreatModel

LEVELS = 25
"""Epsilon moves in so many steps; in linf each is 1/255, so that the last is just below 0.1."""
STEP = {"l2": 0.05, "l1": 0.5}
FEATURES = 3000
"""An l0 step is one feature, of larger images one in so many."""


@dataclass(frozen=True)
class Settings:
    """Model and picture by name (an uploaded picture by its path), the attack as text, the threat as norm and level,
    the target as a class number; None: any other class.
    """

    model: str
    picture: str
    attack: str = "fgsm"
    norm: str = "linf"
    level: int = 4
    target: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(unknown("norm", self.norm, list(NORMS)))
        if not 0 <= self.level <= LEVELS:
            raise InputError(f"level must be a whole number from 0 to {LEVELS}, got {self.level!r}")

    def query(self) -> str:
        """The settings as the part of a link behind the question mark."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return urlencode({name: value for name, value in values.items() if value is not None})

    @classmethod
    def read(cls, query: Mapping[str, str], model: str, picture: str) -> Settings:
        """The settings of a link; what it leaves out, or says wrongly, stays as usual with `model` and `picture`."""
        said = {"model": model, "picture": picture}
        said |= {name: query[name][:200] for name in ("model", "picture", "attack", "norm") if query.get(name)}
        level, target = (_whole(query.get(name, "")) for name in ("level", "target"))
        if said.get("norm") not in NORMS:
            said.pop("norm", None)
        return cls(**said, level=4 if level is None else min(level, LEVELS), target=target)


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else None


def threat_at(norm: str, level: int, size: int) -> ThreatModel:
    """The threat of a level for images of `size` numbers.

    >>> threat_at("linf", 8, 64)
    ThreatModel(norm='linf', eps=8/255)
    """
    if norm == "linf":
        return ThreatModel("linf", f"{level}/255")
    return ThreatModel(norm, level * (max(1, size // FEATURES) if norm == "l0" else STEP[norm]))


def chosen_attack(text: str) -> Attack:
    """The attack of a text, one of the table: a page must not import what a link names.

    Raises `InputError` for anything else.
    """
    if re.search(r"\+(?!\d)", text):
        raise InputError("the lab shows plain attacks: leave out what follows the plus")
    name = text.partition(":")[0].strip()
    if name not in ATTACK_NAMES:
        raise InputError(unknown("attack", name, list(ATTACK_NAMES)))
    return parse(text)


def _plain_attacks() -> tuple[str, ...]:
    return tuple(
        name for name, kind in ATTACKS.items() if set(kind.threats) & set(NORMS) and not issubclass(kind, Wrapper)
    )


ATTACK_NAMES = _plain_attacks()
"""The attacks that work alone and in a norm."""


def attacks_in(norm: str) -> tuple[str, ...]:
    """Names of the attacks for a norm."""
    return tuple(name for name in ATTACK_NAMES if norm in ATTACKS[name].threats)
