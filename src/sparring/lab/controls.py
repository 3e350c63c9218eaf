"""An attack's hyper-parameters as controls, read from its dataclass; and their values as the attack's text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args, get_type_hints

from sparring.attacks import ATTACKS, Attack, format_attack
from sparring.attacks.spec import read_parameters, value_text
from sparring.lab.settings import chosen_attack

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Control:
    """One hyper-parameter: `kind` is "flag", "whole", "number" or "text"; `optional` ones may be left empty."""

    name: str
    kind: str
    value: Value
    optional: bool


def controls(text: str) -> tuple[Control, ...]:
    """The controls of the attack that `text` says, with its values."""
    attack = chosen_attack(text)
    hints = get_type_hints(type(attack))
    found = []
    for field in dataclasses.fields(attack):
        hint = hints[field.name]
        value = getattr(attack, field.name)
        if not isinstance(value, Attack) and (value is None or isinstance(value, (bool, int, float, str))):
            found.append(Control(field.name, _kind(hint), value, type(None) in get_args(hint)))
    return tuple(found)


def written(name: str, values: Sequence[tuple[str, Value]]) -> str:
    """The shortest text of the attack `name` with these values. Raises `InputError` where one is not allowed."""
    said = ",".join(f"{key}={value_text(value)}" for key, value in values if value != "")
    kind = ATTACKS[name]
    return format_attack(kind(**read_parameters(kind, said)))


def _kind(hint: object) -> str:
    allowed = set(get_args(hint)) or {hint}
    if bool in allowed:
        return "flag"
    if str in allowed:
        return "text"
    return "number" if float in allowed else "whole"
