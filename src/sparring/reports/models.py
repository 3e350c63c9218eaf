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
    flat = "-" if row.flat_units is None else numbers.percent(row.flat_units)
    size = "-" if row.parameters is None else numbers.count(row.parameters)
    return (
        _share(row.clean),
        _share(row.robust),
        "-" if row.steepness is None else numbers.significant(row.steepness),
        "-" if row.zero_gradients is None else numbers.percent(row.zero_gradients),
        flat + (f" ({row.flattest})" if row.flattest else ""),
        size,
        numbers.significant(row.milliseconds),
    )


def doubted(row: ModelRow) -> str:
    """What its audit could not settle, else what it got around: nothing where the number can be taken as it is."""
    if row.doubts:
        return f"{row.name}: the robust accuracy can't be believed: {', '.join(row.doubts)}"
    return f"{row.name}: the audit got around {', '.join(row.remedied)}" if row.remedied else ""


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
    for said in filter(None, map(doubted, found.rows)):
        console.print(pen.line((one_line(said), "yellow")), highlight=False)


def html(found: Models) -> str:
    """The page. Equal comparisons give equal pages; names are untrusted and escaped."""
    rows = [(row.name, cells(row), doubted(row)) for row in found.rows]
    return _environment().get_template("models.html.j2").render(found=found, heads=HEADS, rows=rows)


def _share(share: Share) -> str:
    return f"{numbers.percent(share.value)} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
