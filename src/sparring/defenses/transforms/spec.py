"""Transforms as text and back: `jpeg:quality=75`; several follow each other after a plus, `bit_depth:bits=3+median`."""

from __future__ import annotations

import dataclasses
import re

from sparring.attacks.spec import read_parameters, value_text
from sparring.defenses.transforms.base import Transform
from sparring.errors import InputError, unknown


def parse_transform(text: str, table: dict[str, type[Transform]]) -> Transform:
    """Build a transform, or a chain of several, from its text. Raises `InputError` naming what is unknown."""
    from sparring.defenses.transforms.chain import Chain

    if not isinstance(text, str):
        raise InputError(f"a transform is written as text, such as 'jpeg:quality=75', got {text!r}")
    parts = [_one(part, table) for part in re.split(r"\+(?!\d)", text)]
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def _one(text: str, table: dict[str, type[Transform]]) -> Transform:
    name, _, parameters = text.partition(":")
    if name.strip() not in table:
        raise InputError(unknown("transform", name.strip(), list(table)))
    kind = table[name.strip()]
    return kind(**read_parameters(kind, parameters, what="transform"))


def format_transform(transform: Transform) -> str:
    """The shortest text that `parse_transform` turns back into `transform`."""
    from sparring.defenses.transforms import TRANSFORMS
    from sparring.defenses.transforms.chain import Chain

    if isinstance(transform, Chain):
        return "+".join(format_transform(part) for part in transform.parts)
    kind = type(transform)
    name = next((name for name, known in TRANSFORMS.items() if known is kind), f"{kind.__module__}:{kind.__qualname__}")
    values = ((field, getattr(transform, field.name)) for field in dataclasses.fields(transform))
    changed = [f"{field.name}={value_text(value)}" for field, value in values if value != field.default]
    return f"{name}:{','.join(changed)}" if changed else name
