"""`sparring demo`: a classifier that scores 97 % falls over, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.cli import audit


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report, --out demo.")] = audit.FOLDER,
    effort: audit.EffortFlag = "standard",
    open_report: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser.")] = True,
) -> None:
    """Train a small digit classifier (seconds, cached), audit it, open the report.

    Example:
      sparring demo --no-open
    """
    from sparring.loading import Config, merge

    config = merge(Config(), model="digits-cnn", data="digits", norm="linf", eps=0.2, effort=effort)
    raise typer.Exit(audit.run(config, out=out, target=None, open_report=open_report, quiet=False))
