"""`sparring fit`: the declared stack's detectors, fitted and calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparring.cli import options as o
from sparring.cli import show, stacks, subject

if TYPE_CHECKING:
    from sparring.defenses import Stack
    from sparring.estimate import Estimate

MOST = 5000
UNLIKE = (
    "the images it was calibrated on are of another kind, or the model was trained on them. Give images that neither "
    "the model nor this data holds, --calibration."
)


@o.with_subject(but=["batch_size"])
def fit(
    flags: o.Flags,
    calibration: Annotated[
        str | None,
        typer.Option(help="Clean images to fit on, --calibration ./held-out; default: the training split of the data."),
    ] = None,
    most: Annotated[int, typer.Option(help="Fit on at most this many of them, --most 2000.", min=20)] = MOST,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the fitted stack, --out stack; default: stack.fitted."),
    ] = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Fit the detectors that sparring.toml declares, set their thresholds, and check them on the data.

    Examples:
      sparring fit

      sparring fit --calibration ./held-out --out stack
    """
    settings = flags.declared(calibration=calibration, fitted=out).config
    stacks.layers(settings)  # before the work, not after it
    settings, assumed = subject.with_defaults(settings)
    show.assumptions(() if quiet else assumed)
    loaded = subject.load(settings)
    stack, seconds, _ = stacks.fitted(loaded, most, settings.audit.seed)
    from sparring.defenses import save_stack

    place = save_stack(stack, stacks.folder(settings))
    if not quiet:
        _report(stack, seconds, loaded)
    typer.echo(f"saved {place}")


def _report(stack: Stack, seconds: float, loaded: subject.Subject) -> None:
    """Rates on the declared data, which should be images that neither the model nor the detectors have seen."""
    from rich.console import Console

    from sparring.reports.pen import Pen

    console = Console()
    pen = Pen.of(console)
    console.print(pen.title(f"Fitted in {seconds:.1f} s: {stack}"))
    if not stack.detectors:
        console.print(pen.line(("There is no detector to fit; transforms need none.", "")))
        return
    from sparring.defenses.scoring import flag_rates

    rates = flag_rates(stack, loaded.data.images[0 : len(loaded.data.labels)])
    table = pen.table("detector", at_least=16)
    for head in ("threshold", "asked", "flagged on the data", "fitted on"):
        table.add_column(head, justify="right", no_wrap=True)
    for fitted, rate in zip(stack.detectors, rates, strict=True):
        row = (f"{fitted.threshold:.4g}", f"{100 * fitted.fpr:g} %", str(rate), f"{fitted.n}")
        table.add_row(pen.line((fitted.name, "")), *row)
    console.print(table)
    for fitted, rate in zip(stack.detectors, rates, strict=True):
        if _off(fitted.fpr, rate):
            said = f"{fitted.name} flags {100 * rate:.1f} % of the data, more than the {100 * fitted.fpr:g} % asked for"
            console.print(pen.line((f"{said}: {UNLIKE}", "yellow")))


def _off(asked: float, found: Estimate) -> bool:
    return found.low > asked
