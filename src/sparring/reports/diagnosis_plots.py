"""The pictures of a diagnosis, as SVG that follows the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparring.reports import numbers, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sparring.diagnosis.result import FirstOrder, Landscape, Line, Resolution

LEVELS = 8
CELLS = 56
SHADES = ("s1", "s2", "s3", "s4", "s5", "s6")
"""Colours of the regions of classes, in turn."""
WIDE, HIGH = 120, 64
"""Size of a small picture."""


def saliency(where: Sequence[Sequence[float]]) -> str:
    """Where perturbations act, as at most 56 by 56 squares, the darker the more; empty where nothing is."""
    step = max(1, -(-max(len(where), len(where[0]) if where else 0) // CELLS))
    rows = [_means(where[i : i + step], step) for i in range(0, len(where), step)]
    most = max((max(row) for row in rows if row), default=0.0)
    if most <= 0:
        return ""
    squares = "".join(
        f'<rect x="{x}" y="{y}" width="1.02" height="1.02" fill-opacity="{value / most:.2f}"/>'
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
    )
    title = f"Mean absolute change per pixel, at most {numbers.significant(most)}"
    box = f'viewBox="0 0 {len(rows[0])} {len(rows)}" role="img" aria-label="{title}"'
    return f'<svg {box} style="width: 100%; fill: var(--s1)"><title>{title}</title>{squares}</svg>'


def _means(rows: Sequence[Sequence[float]], step: int) -> list[float]:
    """Several rows as one, as many values as one."""
    columns = [sum(values) / len(rows) for values in zip(*rows, strict=True)]
    return [sum(columns[i : i + step]) / len(columns[i : i + step]) for i in range(0, len(columns), step)]


def line_plot(line: Line, key: str) -> str:
    """The true loss along FGSM's direction with both first-order lines."""
    with svg.settings():
        figure, axes = _axes()
        for values, colour, dash in (
            (line.true, "s1", "-"),
            (line.clipped, "s2", "--"),
            (line.unclipped, "s3", ":"),
        ):
            axes.plot(line.eps, values, color=svg.COLOURS[colour], linestyle=dash, linewidth=1.8)
        text = (
            f"Solid: true loss, from {line.true[0]:.3g} to {line.true[-1]:.3g}. Dashed and dotted: first-order lines."
        )
        return svg.inline(figure, key=key, title=f"Loss along FGSM, image {line.index}", description=text)


def small_line(line: Line) -> str:
    """The same for one of many images, without axes, each in a range of its own."""
    ends = [value for values in (line.true, line.clipped, line.unclipped) for value in values]
    low, high = min(ends), max(ends)
    drawn = []
    for values, colour, dash in ((line.unclipped, "s3", "1 2"), (line.clipped, "s2", "4 3"), (line.true, "s1", "")):
        points = (
            f"{WIDE * eps / (line.eps[-1] or 1):.1f},{HIGH * (high - value) / ((high - low) or 1):.1f}"
            for eps, value in zip(line.eps, values, strict=True)
        )
        style = f"fill: none; stroke: var(--{colour}); stroke-width: 1.6; stroke-dasharray: {dash or 'none'}"
        drawn.append(f'<polyline points="{" ".join(points)}" style="{style}"/>')
    title = f"Image {line.index}: loss from {numbers.significant(line.true[0])} to {numbers.significant(line.true[-1])}"
    box = f'viewBox="-2 -2 {WIDE + 4} {HIGH + 4}" role="img" aria-label="{title}"'
    return f"<svg {box}><title>{title}</title>{''.join(drawn)}</svg>"


def summary_plot(picture: FirstOrder, key: str) -> str:
    """How far the loss and its lines rise over the loss at the image: medians, and the middle half of the images."""
    ways = {"true": ("s1", "-"), "clipped": ("s2", "--"), "unclipped": ("s3", ":")}
    with svg.settings():
        figure, axes = _axes()
        rises = {}
        for name, (colour, dash) in ways.items():
            rows = [[value - line.true[0] for value in getattr(line, name)] for line in picture.lines]
            low, mid, high = ([_quantile(column, q) for column in zip(*rows, strict=True)] for q in (0.25, 0.5, 0.75))
            axes.plot(picture.eps, mid, color=svg.COLOURS[colour], linestyle=dash, linewidth=1.8)
            if name == "true":
                axes.fill_between(picture.eps, low, high, color=svg.COLOURS[colour], alpha=0.15, linewidth=0)
            rises[name] = mid[-1]
        text = "Median rise at the largest epsilon: " + ", ".join(f"{k} {v:.3g}" for k, v in rises.items())
        return svg.inline(figure, key=key, title="Rise of the loss over all images", description=f"{text}.")


def steps_plot(picture: FirstOrder, key: str) -> str:
    """What one step breaks and what ten break, against epsilon; a line where one stops paying."""
    with svg.settings():
        figure, axes = _axes()
        for values, colour, dash in ((picture.one_step, "s2", "--"), (picture.ten_steps, "s1", "-")):
            axes.plot(picture.eps, [100 * v for v in values], color=svg.COLOURS[colour], linestyle=dash, linewidth=1.8)
        if picture.stops_paying is not None:
            axes.axvline(picture.stops_paying, color=svg.COLOURS["ink-2"], linewidth=1, linestyle=":")
        one, ten = (numbers.percent(values[-1]) for values in (picture.one_step, picture.ten_steps))
        text = f"At the largest epsilon one step breaks {one}, ten break {ten}."
        return svg.inline(figure, key=key, title="One step and ten against epsilon", description=text)


def growth_plot(seen: Sequence[Resolution], key: str) -> str:
    """The gradient's l1 norm against the number of inputs, both in powers."""
    with svg.settings():
        figure, axes = _axes()
        for blocks, marker in ((False, "o"), (True, "s")):
            some = [r for r in seen if r.blocks is blocks and r.l1 > 0]
            axes.plot([r.dimension for r in some], [r.l1 for r in some], marker, color=svg.COLOURS["s1"])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        for axis, values in ((axes.xaxis, {r.dimension for r in seen}), (axes.yaxis, {r.l1 for r in seen if r.l1 > 0})):
            axis.set_ticks(sorted(values), labels=[numbers.significant(v) for v in sorted(values)])
        text = "; ".join(f"{r.dimension} inputs: {r.l1:.3g}" for r in seen)
        return svg.inline(figure, key=key, title="Sensitivity against input dimension", description=f"{text}.")


def landscape_plot(plane: Landscape, key: str) -> str:
    """The loss in a plane, the darker the higher."""
    ticks, loss = _ticks(plane), plane.loss
    low, high = min(map(min, loss)), max(map(max, loss))
    with svg.settings():
        figure, axes = _axes(square=True)
        for level in range(1, LEVELS):
            at = low + (high - low) * level / LEVELS
            if high > at:
                shade = [at, high + 1e-6 + abs(high)]
                axes.contourf(ticks, ticks, loss, levels=shade, colors=[svg.COLOURS["s1"]], alpha=0.12)
        axes.plot([0], [0], marker="o", color=svg.COLOURS["ink"])
        return svg.inline(
            figure,
            key=key,
            title=f"Loss around image {plane.index}: {plane.first} and {plane.second}",
            description=f"Loss from {low:.3g} to {high:.3g} around image {plane.index}.",
        )


def regions_plot(plane: Landscape, key: str) -> str:
    """What the model says in the same plane: a region per class, with its number."""
    ticks = _ticks(plane)
    kinds = sorted({k for row in plane.classes for k in row})
    with svg.settings():
        figure, axes = _axes(square=True)
        for i, kind in enumerate(kinds):
            inside = [[float(k == kind) for k in row] for row in plane.classes]
            colour = svg.COLOURS[SHADES[i % len(SHADES)]]
            if len(kinds) > 1:
                axes.contourf(ticks, ticks, inside, levels=[0.5, 1.5], colors=[colour], alpha=0.25)
                axes.contour(ticks, ticks, inside, levels=[0.5], colors=[svg.COLOURS["ink"]], linewidths=1)
            x, y = _middle(inside, ticks)
            axes.text(x, y, str(kind), color=svg.COLOURS["ink"], ha="center", va="center")
        axes.plot([0], [0], marker="o", color=svg.COLOURS["ink"])
        return svg.inline(
            figure,
            key=key,
            title=f"Classes around image {plane.index}: {plane.first} and {plane.second}",
            description=f"Classes {', '.join(map(str, kinds))} around image {plane.index}.",
        )


def _middle(inside: Sequence[Sequence[float]], ticks: Sequence[float]) -> tuple[float, float]:
    """The place in a region from which its border and the picture's are farthest, in steps."""
    side = range(len(ticks))
    left = {(i, j) for i in side for j in side if inside[i][j]}
    while True:
        deeper = {(i, j) for i, j in left if {(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)} <= left}
        if not deeper:
            i, j = sorted(left)[len(left) // 2]
            return ticks[j], ticks[i]
        left = deeper


def _ticks(plane: Landscape) -> list[float]:
    return [plane.reach * (2 * i / (len(plane.loss) - 1) - 1) for i in range(len(plane.loss))]


def _quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def _axes(*, square: bool = False) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.0) if square else (4.6, 3.2))
    axes = figure.add_axes((0.12, 0.12, 0.84, 0.84))
    axes.tick_params(length=0, pad=6, colors=svg.COLOURS["ink-2"], labelsize=11.5)
    for spine in axes.spines.values():
        spine.set_color(svg.COLOURS["line"])
    return figure, axes
