"""`sparring diagnose`: why the model falls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparring.cli import options as o
from sparring.cli import show, subject


@o.with_subject(but=["batch_size"])
def diagnose(
    flags: o.Flags,
    sample: Annotated[int, typer.Option(help="Look at this many of the images, --sample 64.", min=1)] = 128,
    landscapes: Annotated[
        int, typer.Option(help="Images with a picture of the loss around them, --landscapes 4.", min=0)
    ] = 2,
    queries: Annotated[
        int,
        typer.Option(
            help="Black-box mode: a surrogate learns from this many of the model's answers and is attacked, "
            "--queries 1000; default: none.",
            min=0,
        ),
    ] = 0,
    report: Annotated[
        list[Path] | None, typer.Option(help="A file to write, .html or .json, --report diagnosis.html; repeat it.")
    ] = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Explain why a model falls: first-order picture, sensitivity, gradient health, landscapes, transfer.

    Examples:
      sparring diagnose -m digits-cnn --eps 0.1 --report diagnosis.html

      sparring diagnose -m digits-cnn -n 100 --eps 0.1 --sample 32 --queries 500
    """
    o.check_reports(report or ())
    settings, assumed = subject.with_defaults(flags.declared().config)
    show.assumptions(() if quiet else assumed)
    loaded = subject.load(settings)
    from rich.console import Console

    from sparring.diagnosis.diagnose import diagnose as explained
    from sparring.files import write_whole
    from sparring.reports import diagnosis as rendered

    found = explained(
        loaded.model,
        loaded.data.images,
        loaded.data.labels,
        loaded.threat,
        sample=sample,
        landscapes=landscapes,
        queries=queries,
        seed=settings.audit.seed,
        progress=None if quiet else _told,
    )
    if not quiet:
        rendered.terminal(found, Console())
    for path in report or ():
        html = path.suffix.lower() == ".html"
        text = rendered.html(found) if html else found.model_dump_json(indent=1) + "\n"
        write_whole(path, text.encode("utf-8", errors="replace"))
        typer.echo(f"saved {path}")


def _told(section: str) -> None:
    sys.stderr.write(f"{section}\n")


def _tell(section: str) -> None:
    sys.stderr.write(f"{section}\n")
