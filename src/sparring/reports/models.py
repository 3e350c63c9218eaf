"""Models side by side: as a table on the terminal, and as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from sparring.reports import numbers
from sparring.reports.html import _environment
from sparring.reports.pen import Pen
from sparring.reports.text import one_line

if TYPE_CHECKING:
    from sparring.diagnosis.result import ModelRow, Models, Share

HEADS = ("clean", "robust, at most", "steepness", "zero gradients", "flat units", "parameters", "ms an image")


def cells(row: ModelRow) -> tuple[str, ...]:
    """What was measured of one model, in the order of `HEADS`."""
    flat = numbers.percent(row.flat_units) + (f" ({row.flattest})" if row.flattest else "")
    size = "-" if row.parameters is None else numbers.count(row.parameters)
    return (
        _share(row.clean),
        _share(row.robust),
        numbers.significant(row.steepness),
        numbers.percent(row.zero_gradients),
        flat,
        size,
        numbers.significant(row.milliseconds),
    )


def terminal(found: Models, console: Console) -> None:
    """Print the table."""
    pen = Pen.of(console)
    console.print(pen.title(f"{found.images} images, {found.threat}, effort {found.effort}"), highlight=False)
    table = pen.table("model", at_least=12)
    for head in HEADS:
        table.add_column(head, justify="right", overflow="fold")
    for row in found.rows:
        table.add_row(pen.line((one_line(row.name), "bold")), *map(Text, cells(row)))
    console.print(table, highlight=False)
    for row in found.rows:
        for warning in row.warnings:
            console.print(pen.line((f"{one_line(row.name)}: {warning}", "yellow")), highlight=False)


def html(found: Models) -> str:
    """The page. Equal comparisons give equal pages; names are untrusted and escaped."""
    rows = [(row.name, cells(row), row.warnings) for row in found.rows]
    return _environment().get_template("models.html.j2").render(found=found, heads=HEADS, rows=rows)


def _share(share: Share) -> str:
    return f"{numbers.percent(share.value)} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
