"""Stacks side by side: as a table on the terminal, and as one self-contained HTML page with a Pareto chart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from sparring.reports import numbers, plots, svg
from sparring.reports.html import _environment
from sparring.reports.pen import Pen
from sparring.reports.text import one_line

if TYPE_CHECKING:
    from sparring.defenses.comparison import Comparison, Row
    from sparring.estimate import Estimate

HEADS = ("clean, accepted", "clean flagged", "naive", "adaptive", "detects adaptive", "time ×", "fit")
CAUTION = (
    "Naive: an attacker who does not know of the stack. Adaptive: one who does; only this number speaks for a "
    "defense, and it is an upper bound. Both are robust accuracy with detection: accepted and right, and no accepted "
    "wrong answer found."
)


def terminal(comparison: Comparison, console: Console) -> None:
    """Print the table, the sentences and the ablation."""
    for block in _blocks(comparison, Pen.of(console)):
        console.print(block)


def html(comparison: Comparison) -> str:
    """The page. Equal comparisons give equal pages; names are untrusted and escaped."""
    rows = [(row.name, row.name in comparison.frontier, cells(row), row.outcome.summary) for row in comparison.rows]
    details = [
        (row.name, _stages(row), _detections(row), list(row.outcome.notes), convergence(row, f"draws{i}"), _draws(row))
        for i, row in enumerate(comparison.rows)
    ]
    page = _environment().get_template("stacks.html.j2")
    return page.render(
        threat=comparison.threat,
        size=numbers.count(comparison.rows[0].outcome.clean.n),
        heads=HEADS,
        rows=rows,
        caution=CAUTION,
        chart=pareto(comparison),
        names=[(row.name, plots.Look.of(i)) for i, row in enumerate(comparison.rows)],
        steps=[(s.layer, signed(s.clean), signed(s.naive), signed(s.adaptive)) for s in comparison.ablation],
        details=details,
    )


def cells(row: Row) -> tuple[str, ...]:
    """The measured columns of one stack, in the order of `HEADS`."""
    o = row.outcome
    shares = [_share(e) for e in (o.accepted, o.clean_flagged, o.naive, o.adaptive, row.tpr)]
    fit = "-" if row.fit_seconds is None else numbers.duration(row.fit_seconds)
    return (*shares, f"{row.slowdown:.1f}", fit)


def signed(points: float) -> str:
    """A difference of shares in points.

    >>> signed(0.034), signed(-0.1)
    ('+3.4', '-10.0')
    """
    return f"{100 * points:+.1f}"


def pareto(comparison: Comparison) -> str:
    """Adaptive robust accuracy against clean images accepted and right, as SVG; a line leads down from the naive."""
    with svg.settings():
        figure, axes = plots._axes()
        for i, row in enumerate(comparison.rows):
            look, o = plots.Look.of(i), row.outcome
            colour, x = svg.COLOURS[look.colour], 100 * o.accepted.value
            axes.plot([x, x], [100 * o.naive.value, 100 * o.adaptive.value], color=colour, linewidth=1.2)
            axes.plot([x], [100 * o.naive.value], marker=look.marker, color=colour, fillstyle="none", markersize=6)
            axes.plot([x], [100 * o.adaptive.value], marker=look.marker, color=colour, markersize=7, clip_on=False)
        xs = [100 * row.outcome.accepted.value for row in comparison.rows]
        axes.set_xlim(max(0.0, min(xs) - 3), min(100.0, max(xs) + 3))
        told = " ".join(
            f"{one_line(row.name)}: clean {numbers.percent(row.outcome.accepted.value)}, naive "
            f"{numbers.percent(row.outcome.naive.value)}, adaptive {numbers.percent(row.outcome.adaptive.value)}."
            for row in comparison.rows
        )
        return svg.inline(figure, key="pareto", title="Robust against clean accuracy", description=told)


def convergence(row: Row, key: str) -> str:
    """Robust accuracy with detection against the draws that EOT averages over, with bands, as SVG; "" without any."""
    points = row.outcome.convergence
    if not points:
        return ""
    with svg.settings():
        figure, axes = plots._axes()
        draws, colour = [p.draws for p in points], svg.COLOURS["s1"]
        axes.fill_between(
            draws,
            [100 * p.adaptive.low for p in points],
            [100 * p.adaptive.high for p in points],
            color=colour,
            alpha=0.16,
        )
        axes.plot(draws, [100 * p.adaptive.value for p in points], color=colour, marker="o", clip_on=False)
        plots._log_axis(axes, draws[0], draws[-1])
        told = " ".join(f"{p.draws} draws: {numbers.percent(p.adaptive.value)}." for p in points)
        return svg.inline(figure, key=key, title="Robust accuracy against draws per step", description=told)


def _blocks(comparison: Comparison, pen: Pen) -> Iterator[RenderableType]:
    first = comparison.rows[0].outcome
    yield pen.title(f"Stacks under {comparison.threat}, n = {numbers.count(first.clean.n)} (* on the Pareto front)")
    table = pen.table("stack", at_least=14)
    wide = pen.width >= 110
    shown = range(len(HEADS)) if wide else (0, 2, 3, 5)
    for column in shown:
        table.add_column(HEADS[column], justify="right", overflow="fold")
    for row in comparison.rows:
        name = ("* " if row.name in comparison.frontier else "  ") + row.name
        values = cells(row)
        table.add_row(pen.line((name, "")), *(Text(values[column]) for column in shown))
    yield table
    for row in comparison.rows:
        yield pen.line((f"{row.name}: ", "bold"), (row.outcome.summary, ""))
        for note in row.outcome.notes:
            yield pen.line((f"  {note}", "yellow"))
    if comparison.ablation:
        yield pen.title("What each layer adds, in points")
        steps = pen.table("layer", at_least=20)
        for head in ("clean", "naive", "adaptive"):
            steps.add_column(head, justify="right")
        for step in comparison.ablation:
            values = (signed(step.clean), signed(step.naive), signed(step.adaptive))
            steps.add_row(pen.line((step.layer, "")), *map(Text, values))
        yield steps
    yield pen.line((CAUTION, "dim"))


def _share(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate):
        return "-"
    return f"{numbers.percent(estimate.value)} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _stages(row: Row) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            s.name,
            numbers.count(s.tried),
            numbers.count(s.evaded),
            numbers.count(s.standing),
            numbers.duration(s.seconds),
        )
        for s in row.outcome.stages
    ]


def _draws(row: Row) -> list[tuple[str, str]]:
    return [(str(p.draws), _share(p.adaptive)) for p in row.outcome.convergence]


def _detections(row: Row) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for d in row.outcome.detection:
        auroc = "-" if math.isnan(d.auroc) else f"{d.auroc.value:.3f} [{d.auroc.low:.3f}, {d.auroc.high:.3f}]"
        found.append((d.detector, d.against, _share(d.flagged), *map(_share, d.tpr.values()), auroc))
    return found
