"""What every attack of the table does with a hyper-parameter of the wrong kind: it says so when it is made."""

from __future__ import annotations

import dataclasses
from typing import get_args, get_type_hints

import pytest

from sparring.attacks import ATTACKS
from sparring.attacks.base import checked_choice, checked_flag
from sparring.errors import InputError


def kinds(attack: str, field: str) -> set[object]:
    hint = get_type_hints(ATTACKS[attack])[field]
    return set(get_args(hint)) or {hint}


def fields_of(*wanted: object) -> pytest.MarkDecorator:
    """Every hyper-parameter of the table that may be of one of these types."""
    pairs = [(name, field.name) for name, kind in ATTACKS.items() for field in dataclasses.fields(kind)]
    chosen = [pair for pair in pairs if kinds(*pair) & set(wanted)]
    return pytest.mark.parametrize(("attack", "field"), [pytest.param(*pair, id=":".join(pair)) for pair in chosen])


@fields_of(bool)
@pytest.mark.parametrize("value", ["no", "true", 0, 1, 1.0, []], ids=repr)
def test_a_flag_is_true_or_false(attack: str, field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        ATTACKS[attack](**{field: value})


@fields_of(str)
@pytest.mark.parametrize("value", ["nonsense", 3, ["margin"], b"margin"], ids=repr)
def test_a_choice_is_one_of_those_known(attack: str, field: str, value: object) -> None:
    with pytest.raises(InputError):
        ATTACKS[attack](**{field: value})


@fields_of(int, float)
@pytest.mark.parametrize("value", ["3", True, [3], float("nan")], ids=repr)
def test_a_number_is_a_number(attack: str, field: str, value: object) -> None:
    if value is True and bool in kinds(attack, field):
        return
    with pytest.raises(InputError):
        ATTACKS[attack](**{field: value})


def test_the_helpers_name_what_is_wrong() -> None:
    checked_flag("early_stop", False)
    checked_choice("norm", "linf", ("linf", "l2"))
    with pytest.raises(InputError, match="early_stop must be True or False, got 'no'"):
        checked_flag("early_stop", "no")
    with pytest.raises(InputError, match="did you mean 'constant'"):
        checked_choice("schedule", "constnat", ("constant", "cosine"))
