"""What the threats beyond the l_p ball share: the whole box as the region of a search, and the way back from a problem
to the threat it is about.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

from torch import Tensor

from sparring.errors import InputError, UnsupportedError
from sparring.problem import Problem
from sparring.threat import Region, ThreatModel

Kind = TypeVar("Kind")


def whole_box(originals: Tensor, bounds: tuple[float, float]) -> Region:
    """The region of an attacker who may do anything inside the box. Raises `InputError` unless they are pictures."""
    check_pictures(originals)
    low, high = bounds
    return ThreatModel("linf", high - low, bounds).around(originals)


def check_pictures(originals: Tensor) -> None:
    """Raise `InputError` unless `originals` have height and width: (N, C, H, W)."""
    if originals.dim() != 4:
        raise InputError(f"this threat is about pictures (N, C, H, W), got {tuple(originals.shape)}")


def threat_of(problem: Problem, kind: type[Kind]) -> Kind:
    """The threat of `problem`, known to be a `kind`. Raises `UnsupportedError` if it is another."""
    threat: object = problem.threat
    if not isinstance(threat, kind):
        raise UnsupportedError(f"this attack needs a {kind.__name__} threat, got {threat!r}")
    return threat


def said(threat: object) -> str:
    """A dataclass as text: only the fields that differ from their defaults."""
    shown = []
    for field in fields(threat):  # type: ignore[arg-type]
        value = getattr(threat, field.name)
        if value != field.default:
            shown.append(f"{field.name}={value!r}")
    return f"{type(threat).__name__}({', '.join(shown)})"
