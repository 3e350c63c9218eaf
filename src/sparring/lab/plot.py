"""A small line plot as SVG text that follows the page's colours; no library, so that it is there at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34


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
    """An `<svg>` with axes, a legend below, and upright `marks` (x, class, text). Names are escaped here."""
    xs = [x for curve in curves for x, _ in curve.points] or [0.0, 1.0]
    ys = [y for curve in curves for _, y in curve.points] or [0.0, 1.0]
    right = max(xs) or 1.0
    low, high = (0.0, 1.0) if percent else _range(min(ys), max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / right
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)
        return round(across, 1), round(down, 1)

    parts = [f"<title>{escape(title)}</title>"]
    for step in range(5):
        y = low + (high - low) * step / 4
        _, down = at(0, y)
        text = f"{100 * y:.0f} %" if percent else f"{y:.2g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4}" text-anchor="end">{text}</text>')
    for step in range(6):
        across, _ = at(right * step / 5, low)
        parts.append(
            f'<text x="{across}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{right * step / 5:.3g}</text>'
        )
    for x, look, text in marks:
        across, _ = at(min(x, right), low)
        parts.append(
            f'<line class="mark {look}" x1="{across}" x2="{across}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
            f"<title>{escape(text)}</title></line>"
        )
    for curve in curves:
        places = [at(x, min(max(y, low), high)) for x, y in sorted(curve.points)]
        line = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline class="{curve.look}" points="{line}"/>')
        parts += [f'<circle class="{curve.look}" cx="{x}" cy="{y}" r="2.4"/>' for x, y in places]
    parts.append(f'<text x="{(LEFT + WIDTH) // 2}" y="{HEIGHT - 2}" text-anchor="middle">{escape(x_label)}</text>')
    legend = "".join(f'<span class="{curve.look}">{escape(curve.name)}</span>' for curve in curves)
    legend += "".join(f'<span class="mark {look}">{escape(text)}</span>' for _, look, text in marks)
    drawn = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return (
        f'<figure class="plot"><figcaption>{escape(y_label)}</figcaption>{drawn}<p class="legend">{legend}</p></figure>'
    )


def _range(low: float, high: float) -> tuple[float, float]:
    """A little more than what is drawn; 0 where everything lies above it, so that small slopes look small."""
    room = 0.05 * (high - low) or 1.0
    return (0.0 if low >= 0 else low - room), high + room
