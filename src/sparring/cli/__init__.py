"""The command line: each command parses, makes one call, and renders. `main` turns errors into exit codes.

Nothing here or at the head of a command's file imports torch, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from sparring import __version__
from sparring.cli import attack, audit, certify, compare, demo, diagnose, endpoint, fit, guard, harden, init, lab
from sparring.errors import SparringError


class _Commands(TyperGroup):
    """The commands; Ctrl-C and a reader of our output who left have exit codes of their own."""

    def invoke(self, ctx: Any) -> Any:
        """Run one command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            sys.stderr.close()  # there is nobody to tell
            raise typer.Exit(141) from None
        except SystemExit as stop:  # how rich leaves in the same case, with the exit code that is the gate's
            if isinstance(stop.__context__, BrokenPipeError):
                raise typer.Exit(141) from None
            raise


app = typer.Typer(
    name="sparring",
    cls=_Commands,
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
app.command("diagnose")(diagnose.diagnose)
app.command("certify")(certify.certify)
app.command("harden")(harden.harden)
app.command("fit")(fit.fit)
app.command("compare")(compare.compare)
app.add_typer(guard.app, name="guard")
app.command("endpoint")(endpoint.endpoint)
app.command("lab")(lab.lab)


def _version(wanted: bool) -> None:
    if wanted:
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
        from rich.console import Console

        Console(stderr=True, soft_wrap=True).print("[bold red]error:[/]", end=" ")
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    except Exception as error:  # noqa: BLE001 - the last resort: exit code 1 is the gate's alone
        if _out_of_memory(error):
            sys.stderr.write("error: out of memory: give a smaller --batch-size, or smaller images, --size\n")
            raise SystemExit(2) from None
        traceback.print_exc()
        sys.stderr.write("this is a bug in sparring, in the model or in an attack of your own: ")
        sys.stderr.write("where it is ours, please report it with the lines above\n")
        raise SystemExit(3) from None


def _out_of_memory(error: Exception) -> bool:
    """Torch says it in a class of its own on a GPU, in words on the CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
