"""`sparring compare`: defenses and their layers side by side, the adaptive number beside the naive one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparring.cli import options as o
from sparring.cli import show, stacks, subject
from sparring.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sparring.defenses import Stack


@o.with_subject(but=["batch_size", "config"])
def compare(
    flags: o.Flags,
    configs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Declarations with a stack each; default: ./sparring.toml. The first one's data and threat."
        ),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            "--transform", "-t", help="One more row, this in front of the model: --transform bit_depth:bits=3+median."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model beside the declared one, SPEC or SPEC@weights.safetensors, without defenses: "
            "--against nets:wide@wide.safetensors; repeat it.",
        ),
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also evaluate the first stack without each of its layers.")
    ] = False,
    effort: Annotated[
        str,
        typer.Option(
            help="How hard the adaptive attacker tries, --effort quick; quick, standard or thorough.",
            autocompletion=o.completing(("quick", "standard", "thorough")),
        ),
    ] = "standard",
    report: Annotated[
        list[Path] | None, typer.Option(help="A file to write, .html or .json, --report compare.html; repeat it.")
    ] = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Attack several stacks the same way and say what each of them, and each layer, is worth; or several models.

    Examples:
      sparring compare --ablate

      sparring compare -m digits-cnn -n 50 --eps 0.1 --effort quick -t jpeg:quality=75 -t median --report compare.html

      sparring compare jpeg.toml squeezing.toml

      sparring compare -m digits-cnn --against digits-cnn -n 50 --eps 0.1 --effort quick
    """
    o.check_reports(report or ())
    if against:
        if configs or transform or ablate:
            raise ConfigError("--against compares models: leave out other declarations, --transform and --ablate")
        _models(o.declared(None, **flags.values), against, effort, report or (), quiet=quiet)
        return
    settings = [o.declared(path, **flags.values) for path in (configs or (None,))]
    if configs is None and settings[0].config.stack is None and not transform:
        raise ConfigError("there is nothing to compare: add [stack] to sparring.toml, name files, or give --transform")
    from rich.console import Console

    from sparring.defenses.comparison import compare_stacks
    from sparring.reports import stacks as rendered

    first, assumed = subject.with_defaults(settings[0].config)
    show.assumptions(() if quiet else assumed)
    loaded = subject.load(first)
    tried, seconds = _stacks(settings, loaded, transform or ())
    named = [name for name in tried if name not in ("undefended", *(transform or ()))]
    if ablate and not named:
        raise ConfigError("--ablate needs a [stack] with layers")
    compared = compare_stacks(
        tried,
        loaded.data.images,
        loaded.data.labels,
        loaded.threat,
        effort=effort,
        seed=first.audit.seed,
        fit_seconds=seconds,
        ablate=named[0] if ablate else None,
        progress=None if quiet else _told(),
    )
    if not quiet:
        rendered.terminal(compared, Console())
    _saved(report or (), lambda: rendered.html(compared), compared.to_json)


def _models(declared: o.Declared, against: Sequence[str], effort: str, reports: Sequence[Path], *, quiet: bool) -> None:
    """The declared model and others on its data, under its threat."""
    from rich.console import Console

    from sparring.auditing.side_by_side import compare_models
    from sparring.reports import models as rendered

    config, assumed = subject.with_defaults(declared.config)
    show.assumptions(() if quiet else assumed)
    loaded = subject.load(config)
    tried = {loaded.model_name: loaded.model}
    tried |= subject.other_models(config, against, tried)
    told = None if quiet else lambda name: typer.echo(name, err=True)
    found = compare_models(
        tried,
        loaded.data.images,
        loaded.data.labels,
        loaded.threat,
        effort=effort,
        seed=config.audit.seed,
        progress=told,
    )
    if not quiet:
        rendered.terminal(found, Console())
    _saved(reports, lambda: rendered.html(found), lambda: found.model_dump_json(indent=1) + "\n")


def _saved(reports: Sequence[Path], html: Callable[[], str], json: Callable[[], str]) -> None:
    """Write each report in the form that its name asks for."""
    from sparring.files import write_whole

    for path in reports:
        text = html() if path.suffix.lower() == ".html" else json()
        write_whole(path, text.encode("utf-8", errors="replace"))
        typer.echo(f"saved {path}")


def _stacks(
    settings: Sequence[o.Declared], first: subject.Subject, transforms: Sequence[str]
) -> tuple[dict[str, Stack], dict[str, float]]:
    """Name to stack, the bare model first; and the seconds that fitting took, where it happened now."""
    from sparring.defenses import Stack
    from sparring.defenses.transforms import parse

    tried, seconds = {"undefended": Stack(first.model)}, {}
    for i, declared in enumerate(settings):
        if declared.config.stack is None:
            continue
        own = first if i == 0 else subject.load(subject.with_defaults(declared.config)[0])
        stack, spent = stacks.stored_or_fitted(own, 5000, own.config.audit.seed)
        name = "stack" if declared.path is None else declared.path.stem
        name = name if name not in tried else str(declared.path)
        tried[name] = stack
        if spent is not None:
            seconds[name] = spent
    for text in transforms:
        tried[text] = Stack(first.model, [parse(text)])
    return tried, seconds


def _told() -> Callable[[str, int], None]:
    def tell(stage: str, standing: int) -> None:
        typer.echo(f"{stage}: {standing} standing", err=True)

    return tell
