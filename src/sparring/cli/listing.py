"""`sparring attack --list`: every attack with what it needs, its parameters and its paper; and the efforts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sparring.attacks import Attack


def show(norm: str | None = None) -> None:
    """Print the table, of the attacks that work in `norm` if one is given. Raises `InputError` for another norm."""
    from sparring.attacks import ATTACKS
    from sparring.evaluation import EFFORTS
    from sparring.norms import checked

    table = Table("attack", "needs", "norms", "parameters and defaults", "paper", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.no_wrap = True
    for name, kind in ATTACKS.items():
        if norm is None or checked(norm) in kind.threats:
            table.add_row(name, kind.access, "\n".join(_pairs(kind.threats)), _parameters(kind), Text(kind.paper))
    console = Console(highlight=False)
    console.print(table)
    console.print("\nWritten --attack NAME:parameter=value,... as in --attack pgd:steps=40,restarts=5", markup=False)
    console.print("\nEfforts of an audit, and the attacks they choose from:", style="bold")
    for name, effort in EFFORTS.items():
        console.print(Text.assemble((name, "bold"), f": {effort.about}"))
        console.print(Text(" ".join(str(attack) for attack in effort.attacks), style="dim"))


def _pairs(norms: tuple[str, ...]) -> list[str]:
    return [" ".join(norms[i : i + 2]) for i in range(0, len(norms), 2)]


def _parameters(kind: type[Attack]) -> Text:
    return Text("\n".join(f"{field.name}={_default(field.default)}" for field in dataclasses.fields(kind)))


def _default(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
