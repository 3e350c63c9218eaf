"""A small line plot as SVG text that follows the page's colours; no library, so that it is there at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 460, 230
LEFT, TOP, ACROSS, DOWN = 52, 10, 396, 186
"""The frame of the curves."""


@dataclass(frozen=True)
class Curve:
    """A named line: `look` is one of the page's classes "one", "two", "straight"."""

    name: str
    look: str
    points: Sequence[tuple[float, float]]


def line_plot(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, str, str]] = (),
    percent: bool = False,
) -> str:
    """An `<svg>` with axes, a legend below, and upright `marks` (x, class, text). Names are escaped here.

    The height fits the curves but the "straight" ones, which leave the plot where they rise above it.
    """
    known = [replace(curve, points=[p for p in sorted(curve.points) if all(map(math.isfinite, p))]) for curve in curves]
    right = max((x for curve in known for x, _ in curve.points), default=1.0) or 1.0
    heights = [y for curve in known if curve.look != "straight" for _, y in curve.points]
    low, high, steps = (0.0, 1.0, 4) if percent else _range(heights)
    scale = Scale(right, low, high, steps)
    inside = f'x="{LEFT - 3}" y="{TOP - 3}" width="{ACROSS + 6}" height="{DOWN + 6}"'
    frame = f'<svg class="inside" {inside} viewBox="{LEFT - 3} {TOP - 3} {ACROSS + 6} {DOWN + 6}">'
    drawn = "".join(
        (
            f"<title>{escape(title)}</title>",
            *_grid(scale, percent),
            *(_mark(scale, *mark) for mark in marks),
            frame,
            *(_line(scale, curve) for curve in known),
            "</svg>",
            f'<text x="{LEFT + ACROSS // 2}" y="{HEIGHT - 2}" text-anchor="middle">{escape(x_label)}</text>',
        )
    )
    legend = "".join(f'<span class="{curve.look}">{escape(curve.name)}</span>' for curve in curves)
    legend += "".join(f'<span class="mark {look}">{escape(text)}</span>' for _, look, text in marks)
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{drawn}</svg>'
    caption = f"<figcaption>{escape(y_label)}</figcaption>"
    return f'<figure class="plot">{caption}{picture}<p class="legend">{legend}</p></figure>'


@dataclass(frozen=True)
class Scale:
    """Where a point of the plot is drawn: x from 0 to `right`, y from `low` to `high` in so many steps."""

    right: float
    low: float
    high: float
    steps: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Across and down."""
        down = TOP + DOWN * (self.high - y) / (self.high - self.low)
        return round(LEFT + ACROSS * min(x, self.right) / self.right, 1), round(down, 1)


def _grid(scale: Scale, percent: bool) -> Iterator[str]:
    for step in range(scale.steps + 1):
        y = scale.low + (scale.high - scale.low) * step / scale.steps
        _, down = scale.at(0, y)
        text = f"{100 * y:.0f} %" if percent else f"{y:.4g}"
        yield f'<line class="grid" x1="{LEFT}" x2="{LEFT + ACROSS}" y1="{down}" y2="{down}"/>'
        yield f'<text x="{LEFT - 6}" y="{down + 4}" text-anchor="end">{text}</text>'
    for step in range(6):
        x = scale.right * step / 5
        yield f'<text x="{scale.at(x, 0)[0]}" y="{TOP + DOWN + 16}" text-anchor="middle">{x:.3g}</text>'


def _mark(scale: Scale, x: float, look: str, text: str) -> str:
    across, _ = scale.at(x, scale.low)
    place = f'x1="{across}" x2="{across}" y1="{TOP}" y2="{TOP + DOWN}"'
    return f'<line class="mark {look}" {place}><title>{escape(text)}</title></line>'


def _line(scale: Scale, curve: Curve) -> str:
    places = [scale.at(x, y) for x, y in curve.points]
    dots = "".join(f'<circle class="{curve.look}" cx="{x}" cy="{y}" r="2.4"/>' for x, y in places)
    return f'<polyline class="{curve.look}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>{dots}'


def _range(ys: Sequence[float]) -> tuple[float, float, int]:
    """Round ends around what is drawn and how many steps of 1, 2 or 5 lie between them; from 0 where everything lies
    above it, so that small slopes look small.
    """
    low, high = min([0.0, *ys]), max(ys, default=1.0)
    step = _round_step((high - low) / 5 or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, max(last, first + 1) * step, max(last - first, 1)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((k * power for k in (1, 2, 5) if k * power >= least), 10 * power)
