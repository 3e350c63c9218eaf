"""Text to method and back: `free`, `pgd:steps=10`, `trades:beta=4`."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

from sparring.budget import parse_number
from sparring.errors import InputError, unknown
from sparring.hardening.methods import METHODS, Method


def parse_method(text: str | Method) -> Method:
    """The method that `text` names. Raises `InputError` for an unknown method or parameter.

    An inner attack has parameters of its own, so it comes last: `pgd:inner=mifgsm:steps=5,decay=0.9`.

    >>> parse_method("pgd:steps=10").steps
    10
    """
    if isinstance(text, Method):
        return text
    if not isinstance(text, str):
        raise InputError(f"method must be a name such as 'pgd' or a Method, got {text!r}")
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise InputError(unknown("method", name, list(METHODS)))
    kind = METHODS[name]
    rest, found, inner = rest.partition("inner=")
    values = dict(_pair(kind, item) for item in rest.split(",") if item.strip())
    if found:
        values["inner"] = _value(kind, "inner", inner.strip())
    return kind(**values)


def format_method(method: Method) -> str:
    """The shortest text that `parse_method` turns back into `method`."""
    names = [name for name, kind in METHODS.items() if kind is type(method)]
    name = names[0] if names else f"{type(method).__module__}:{type(method).__qualname__}"
    fields = sorted(dataclasses.fields(method), key=lambda field: field.name == "inner")
    changed = [
        f"{field.name}={_text(getattr(method, field.name))}"
        for field in fields
        if getattr(method, field.name) != field.default
    ]
    return f"{name}:{','.join(changed)}" if changed else name


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _pair(kind: type[Method], item: str) -> tuple[str, Any]:
    name, separator, value = (part.strip() for part in item.partition("="))
    if not separator or not value:
        raise InputError(f"a method's parameters are written name=value, got {item!r}")
    return name, _value(kind, name, value)


def _value(kind: type[Method], name: str, text: str) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    if name not in known:
        raise InputError(unknown(f"parameter of {kind.__name__}", name, known))
    hint = get_type_hints(kind)[name]
    allowed = set(get_args(hint)) or {hint}
    if text.lower() == "none" and type(None) in allowed:
        return None
    if bool in allowed:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name} must be true or false, got {text!r}")
        return text.lower() == "true"
    if str in allowed:
        return text
    number = parse_number(text, name)
    if float not in allowed and number != int(number):
        raise InputError(f"{name} must be a whole number, got {text!r}")
    return number if float in allowed else int(number)
