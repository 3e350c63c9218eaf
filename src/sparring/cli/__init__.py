"""The command line: each command parses, makes one call, and renders. `main` turns errors into exit codes."""

from __future__ import annotations

import sys
import traceback

import typer
from rich.console import Console

from sparring.cli import attack, audit, demo, init
from sparring.errors import SparringError

app = typer.Typer(
    name="sparring",
    help="A sparring partner for image classifiers: attack, audit, and a report you can trust.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("attack")(attack.attack)
app.command("audit")(audit.audit)


def _version(wanted: bool) -> None:
    if wanted:
        from sparring import __version__

        typer.echo(f"sparring {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """A sparring partner for image classifiers."""


def main() -> None:
    """Entry point. Exit codes: 0 fine, 1 the gate failed, 2 bad usage or input, 3 a bug, 130 interrupted."""
    try:
        app()
    except SparringError as error:
        Console(stderr=True, soft_wrap=True).print("[bold red]error:[/]", end=" ")
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output left; there is nobody to tell
        sys.stderr.close()
        raise SystemExit(141) from None
    except Exception:  # noqa: BLE001 - the last resort: exit code 1 is the gate's alone
        traceback.print_exc()
        sys.stderr.write("this is a bug in sparring or in the model: please report it with the lines above\n")
        raise SystemExit(3) from None
