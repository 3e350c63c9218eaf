"""The plots of the HTML report: accuracy against epsilon, success against cost.

Names and units stay out of the figures (the page writes them beside it): matplotlib has no glyphs for every
script, and text on the page wraps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.auditing.report import CostCurve, Curve
from sparring.reports import numbers, svg
from sparring.reports.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.6, 2.75  # inches: about the width of a phone's page at 72 units per inch
_DASHES = ("", "6 3", "2 2.5", "8 3 2 3")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_COLOURS = ("s1", "s2", "s3", "s4", "s5", "s6")


@dataclass(frozen=True)
class Look:
    """How one series is told from the others: colour, dashes and marker together."""

    colour: str
    dash: str
    marker: str

    @classmethod
    def of(cls, position: int) -> Look:
        """The look of the series at `position`; repeats only after 84."""
        return cls(
            _COLOURS[position % len(_COLOURS)],
            _DASHES[position % len(_DASHES)],
            _MARKERS[position % len(_MARKERS)],
        )


@dataclass(frozen=True)
class Series:
    """A named line of a plot."""

    name: str
    look: Look
    at_budget: str


@dataclass(frozen=True)
class Plot:
    """A drawn plot and what the page writes around it."""

    svg: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]


def curve_plot(curves: Sequence[Curve], *, key: str, budget: float | None) -> Plot:
    """Accuracy against epsilon with interval bands, one line per attack (all of one norm)."""
    norm = curves[0].norm
    largest = max([p.eps for c in curves for p in c.points] + [budget or 0.0])
    steps = norm == "linf" and 1 / 255 < largest <= 1 and _all_steps(curves)
    scale = 255.0 if steps else 1.0
    with svg.settings():
        figure, axes = _axes(steps=steps)
        for position, curve in enumerate(curves):
            _curve_line(axes, curve, Look.of(position), scale)
        _budget_line(axes, None if budget is None else budget * scale, largest * scale)
        _x_range(axes, 0.0, largest * scale)
        title = f"Accuracy against epsilon, {one_line(norm)}"
        drawing = svg.inline(figure, key=key, title=title, description=_describe_curves(curves))
    series = tuple(Series(c.attack, Look.of(i), _at(c, budget)) for i, c in enumerate(curves))
    return Plot(drawing, f"epsilon ({norm}{', in 1/255' if steps else ''})", "accuracy, %", series)


def cost_plot(cost: CostCurve, *, key: str) -> Plot:
    """Share of the images broken against the evaluations spent on each."""
    look = Look.of(1)
    points = sorted(cost.points, key=lambda p: p.cost)
    positive = [p.cost for p in points if p.cost > 0]
    log = len(positive) > 2 and positive[-1] / positive[0] > 30
    shown = [p for p in points if p.cost > 0] if log else points
    last = points[-1]
    text = f"{numbers.percent(last.broken)} broken after {numbers.significant(last.cost)}."
    with svg.settings():
        figure, axes = _axes()
        xs, ys = [p.cost for p in shown], [100 * p.broken for p in shown]
        colour = svg.COLOURS[look.colour]
        axes.step(xs, ys, where="post", color=colour, linewidth=2)
        axes.fill_between(xs, ys, step="post", color=colour, alpha=0.14, linewidth=0)
        _log_axis(axes, xs[0], xs[-1]) if log else _x_range(axes, 0.0, xs[-1])
        drawing = svg.inline(figure, key=key, title="Success against cost", description=text)
    scale = " (logarithmic)" if log else ""
    return Plot(drawing, f"{cost.unit}{scale}", "images broken, %", ())


def _axes(*, steps: bool = False) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0.1, 0.115, 0.86, 0.785))
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 4, 8, 10] if steps else [1, 2, 2.5, 5, 10]))
    axes.grid(visible=True, axis="y", color=svg.COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(svg.COLOURS["ink-2"])
    axes.tick_params(length=0, pad=6, colors=svg.COLOURS["ink-2"], labelsize=11.5)
    axes.xaxis.set_major_formatter(_tick)
    return figure, axes


def _tick(value: float, _position: float) -> str:
    return numbers.significant(value)


def _x_range(axes: Axes, low: float, high: float) -> None:
    axes.set_xlim(low, high if high > low else low + 1)


def _log_axis(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_tick)


def _curve_line(axes: Axes, curve: Curve, look: Look, scale: float) -> None:
    points = sorted((p for p in curve.points if p.accuracy.value is not None), key=lambda p: p.eps)
    xs = [p.eps * scale for p in points]
    colour = svg.COLOURS[look.colour]
    lows, highs = [100 * p.accuracy.low for p in points], [100 * p.accuracy.high for p in points]
    axes.fill_between(xs, lows, highs, color=colour, alpha=0.16, linewidth=0)
    dash = tuple(float(part) for part in look.dash.split())
    axes.plot(
        xs,
        [100 * (p.accuracy.value or 0.0) for p in points],
        color=colour,
        linestyle=(0, dash) if dash else "-",
        linewidth=1.8,
        dash_capstyle="butt",
        marker=look.marker,
        markersize=5,
        markeredgewidth=0,
        clip_on=False,
        zorder=3,
    )


def _budget_line(axes: Axes, at: float | None, right: float) -> None:
    if at is None:
        return
    axes.axvline(at, color=svg.COLOURS["ink"], linewidth=1, linestyle=(0, (1.5, 2)))
    side = "center" if 0.12 * right < at < 0.88 * right else "right" if at > 0.5 * right else "left"
    axes.text(
        at,
        1.035,
        "budget",
        transform=axes.get_xaxis_transform(),
        ha=side,
        fontsize=11.5,
        color=svg.COLOURS["ink"],
    )


def _at(curve: Curve, budget: float | None) -> str:
    if budget is None:
        return ""
    return next((numbers.with_bounds(p.accuracy) for p in curve.points if abs(p.eps - budget) < 1e-9), "")


def _all_steps(curves: Sequence[Curve]) -> bool:
    values = [p.eps * 255 for c in curves for p in c.points]
    return all(abs(v - round(v)) < 1e-6 for v in values)


def _describe_curves(curves: Sequence[Curve]) -> str:
    parts = []
    for curve in curves:
        points = sorted(curve.points, key=lambda p: p.eps)
        if points:
            first, last = points[0], points[-1]
            start = f"{numbers.percent(first.accuracy.value)} at {numbers.eps_text(first.eps, curve.norm)}"
            end = f"{numbers.percent(last.accuracy.value)} at {numbers.eps_text(last.eps, curve.norm)}"
            parts.append(f"{one_line(curve.attack)}: from {start} to {end}.")
    return " ".join(parts) + " The table beside the plot holds every number."
