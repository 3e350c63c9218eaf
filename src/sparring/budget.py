"""How a budget is written: the names of the norms, and numbers such as "8/255". Needs no tensor, so it is quick."""

from __future__ import annotations

import math

from sparring.errors import InputError

NORMS = ("linf", "l2", "l1", "l0")


def parse_number(value: float | int | str, name: str = "eps") -> float:
    """A finite number, also written as a fraction: ``parse_number("8/255")``.

    >>> parse_number("8/255") == 8 / 255
    True
    """
    try:
        if isinstance(value, str) and ("_" in value or not value.isascii()):
            raise ValueError
        if isinstance(value, str) and "/" in value:
            top, bottom = value.split("/")
            number = float(top) / float(bottom)
        else:
            number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f'{name} must be a number such as 0.03 or "8/255", got {value!r}') from None
    if not math.isfinite(number) or isinstance(value, bool):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return number


def number_text(value: float) -> str:
    """A budget as people write it: a multiple of 1/255 where that is exact and the decimal is not short.

    >>> number_text(8 / 255), number_text(0.2), number_text(1.5)
    ('8/255', '0.2', '1.5')
    """
    steps = value * 255
    if float(f"{value:.3g}") != value and 0 < steps < 255 and abs(steps - round(steps)) < 1e-9:
        return f"{round(steps)}/255"
    return f"{value:g}"
