"""Text to attack and back: `pgd:steps=40,restarts=5`, or a user's own `package.module:Class:steps=40`.

Wrappers follow after a plus, the innermost first: `pgd:steps=40+eot:draws=16+grid` is
`Grid(EOT(PGD(steps=40), draws=16))`. A plus before a digit belongs to a number (`1e+3`). Nothing needs brackets,
nor quotes in a shell.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from typing import Any, get_args, get_type_hints

from sparring.attacks.base import Attack
from sparring.attacks.wrapper import Wrapper
from sparring.budget import parse_number
from sparring.errors import InputError, unknown


def parse_attack(text: str, table: dict[str, type[Attack]]) -> Attack:
    """Build an attack from its text form. Raises `InputError` naming the unknown attack, wrapper or parameter."""
    first, *rest = re.split(r"\+(?!\d)", text)
    if rest and not all(part.strip() for part in (first, *rest)):
        raise InputError(f"{text!r} has a plus with nothing on one side: write an attack, then +wrapper, as in pgd+eot")
    kind, parameters = _kind(first, table)
    attack = kind(**read_parameters(kind, parameters))
    for part in rest:
        kind, parameters = _kind(part, table)
        if not issubclass(kind, Wrapper):
            known = [name for name, entry in table.items() if issubclass(entry, Wrapper)]
            raise InputError(f"{part.strip()!r} is no wrapper, so it cannot follow a plus: use {', '.join(known)}")
        attack = kind(attack, **read_parameters(kind, parameters))
    return attack


def format_attack(attack: Attack) -> str:
    """The shortest text that `parse_attack` turns back into `attack`: only what differs from the defaults."""
    from sparring.attacks import ATTACKS

    kind = type(attack)
    names = [name for name, known in ATTACKS.items() if known is kind]
    name = names[0] if names else f"{kind.__module__}:{kind.__qualname__}"
    values = {field: getattr(attack, field.name) for field in dataclasses.fields(attack)}
    inner = [format_attack(value) for value in values.values() if isinstance(value, Attack)]
    changed = [
        f"{field.name}={value_text(value)}"
        for field, value in values.items()
        if value != field.default and not isinstance(value, Attack)
    ]
    return "+".join([*inner, f"{name}:{','.join(changed)}" if changed else name])


def value_text(value: object) -> str:
    """A hyper-parameter as it is written; whole floats lose their point, so that equal values have one text."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return str(value)


def _kind(text: str, table: dict[str, type[Attack]]) -> tuple[type[Attack], str]:
    """The class that a text form names, and the text of its parameters."""
    name, _, rest = text.partition(":")
    name = name.strip()
    class_name, _, parameters = rest.partition(":")
    if name in table:
        return table[name], rest
    if class_name.strip().isidentifier():
        return _imported(name, class_name.strip()), parameters
    raise InputError(unknown("attack", name, list(table)))


def read_parameters(kind: type[Any], text: str, nested: object = Attack, what: str = "attack") -> dict[str, Any]:
    """The values of `name=value,name=value` for the fields of a dataclass; fields of type `nested` are not text."""
    hints = get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind) if hints[field.name] is not nested]
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, separator, value = (part.strip() for part in item.partition("="))
        if not separator or not value:
            raise InputError(f"{what} parameters are written name=value, got {item!r}")
        if name not in fields:
            raise InputError(unknown(f"parameter of {kind.__name__}", name, fields))
        if name in values:
            raise InputError(f"parameter {name!r} is given twice in {text!r}")
        values[name] = _value(name, value, hints[name])
    return values


def _value(name: str, text: str, hint: Any) -> Any:
    allowed = set(get_args(hint)) or {hint}
    if text.lower() == "none" and type(None) in allowed:
        return None
    if bool in allowed and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if int in allowed or float in allowed:
        number = parse_number(text, name)
        if float not in allowed and number != int(number):
            raise InputError(f"{name} must be a whole number, got {text!r}")
        return number if float in allowed else int(number)
    if bool in allowed:
        raise InputError(f"{name} must be true or false, got {text!r}")
    return text


def _imported(module: str, name: str) -> type[Attack]:
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"cannot import attack {module}:{name}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Attack)) or inspect.isabstract(kind):
        raise InputError(f"{module}:{name} is not a final subclass of sparring.attacks.Attack with a run method")
    return kind
