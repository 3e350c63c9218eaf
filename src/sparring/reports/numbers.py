"""How reports write numbers: percents with one decimal, the interval in brackets, n always stated."""

from __future__ import annotations

from collections.abc import Iterable

from sparring.auditing.report import Interval
from sparring.budget import number_text

_NORMS_IN_GREY_LEVELS = ("linf",)


def percent(value: float | None) -> str:
    """A share of one. What is not quite nothing, or not quite all, is not rounded to it.

    >>> percent(0.348), percent(0.0002), percent(0.9999), percent(None)
    ('34.8 %', '<0.1 %', '>99.9 %', 'unknown')
    """
    if value is None:
        return "unknown"
    if 0 < value < 0.0005:
        return "<0.1 %"
    if 0.9995 <= value < 1:
        return ">99.9 %"
    return f"{_points(value)} %"


def points(share: float) -> str:
    """A share of one as a difference: ``4.9 points``.

    >>> points(0.049), points(0.0), points(0.0002)
    ('4.9 points', '0.0 points', '<0.1 points')
    """
    return "<0.1 points" if 0 < share < 0.0005 else f"{_points(share)} points"


def bounds(interval: Interval) -> str:
    """The two ends in percent: ``[95.3, 98.4]``."""
    return f"[{_points(interval.low)}, {_points(interval.high)}]"


def with_bounds(interval: Interval) -> str:
    """Value and interval: ``97.2 % [95.3, 98.4]``, or ``unknown`` where nothing was counted."""
    if interval.value is None:
        return "unknown"
    return f"{percent(interval.value)} {bounds(interval)}"


def with_n(interval: Interval) -> str:
    """Value, interval and sample size: ``97.2 % [95.3, 98.4], n = 500``."""
    return f"{with_bounds(interval)}, n = {count(interval.n)}"


def sample_size(intervals: Iterable[Interval]) -> str:
    """The n that intervals have in common, or its range: ``n = 500``."""
    sizes = sorted({interval.n for interval in intervals})
    if not sizes:
        return "n = 0"
    return f"n = {count(sizes[0])}" + ("" if len(sizes) == 1 else f" to {count(sizes[-1])}")


def count(number: int) -> str:
    """A whole number with thousands separated.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """A count and its noun.

    >>> counted(1, "image"), counted(2, "image")
    ('1 image', '2 images')
    """
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def per_image(total: int, images: int) -> str:
    """The mean per image; a dash where there was no image.

    >>> per_image(21, 2), per_image(100_000, 10), per_image(0, 0)
    ('10.5', '10,000', '-')
    """
    if images == 0:
        return "-"
    mean = total / images
    return f"{mean:.1f}" if mean < 100 else f"{mean:,.0f}"


def significant(value: float, digits: int = 3) -> str:
    """A measure with three significant digits.

    >>> significant(0.0313725), significant(41.26), significant(123456.0)
    ('0.0314', '41.3', '123,456')
    """
    if 10 ** (digits - 1) <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def eps_text(value: float, norm: str) -> str:
    """A budget as people write it: a short decimal, else a multiple of 1/255 for linf, else three digits.

    >>> eps_text(8 / 255, "linf"), eps_text(0.3, "linf"), eps_text(0, "linf")
    ('8/255', '0.3', '0')
    """
    text = number_text(value) if norm in _NORMS_IN_GREY_LEVELS else ""
    return text if "/" in text else significant(value)


def duration(seconds: float) -> str:
    """A time span in the unit that suits it.

    >>> duration(0.84), duration(83), duration(7260)
    ('0.84 s', '1 min 23 s', '2 h 01 min')
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _points(share: float) -> str:
    return f"{max(0.0, 100 * share):.1f}"
