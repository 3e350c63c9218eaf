"""`sparring audit`: the whole red-team exercise and its verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparring.cli import options as o
from sparring.cli import show, subject
from sparring.errors import ConfigError
from sparring.loading import Config

FORMS = (".html", ".json", ".xml", ".sarif")


def audit(
    model: o.ModelFlag = None,
    data: o.DataFlag = None,
    n: o.NumberFlag = None,
    eps: o.EpsFlag = None,
    norm: o.NormFlag = None,
    effort: Annotated[str | None, typer.Option(help="quick, standard or thorough.")] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", "-a", help="Instead of an effort; repeat it: pgd:steps=100,restarts=5"),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Class every image is to be turned into (number or name).")] = None,
    fail_under: Annotated[
        float | None, typer.Option(help="Exit 1 if the lower end of robust accuracy's interval is below this share.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the reports and the records.")] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="Report file by suffix .html .json .xml .sarif; repeat it.")
    ] = None,
    weights: o.WeightsFlag = None,
    mean: o.MeanFlag = None,
    std: o.StdFlag = None,
    outputs: o.OutputsFlag = None,
    size: o.SizeFlag = None,
    seed: o.SeedFlag = None,
    batch_size: o.BatchFlag = None,
    config: o.ConfigFlag = None,
    open_report: Annotated[bool, typer.Option("--open", help="Open the HTML report in a browser.")] = False,
    quiet: o.QuietFlag = False,
) -> None:
    """Attack a model in every way we know, check whether the result can be believed, write a report.

    Examples:
      sparring audit --model digits-cnn --eps 0.1

      sparring audit -m mypackage.nets:small -d ./pictures --weights net.safetensors --eps 8/255 --fail-under 0.4

      sparring audit   (reads ./sparring.toml)
    """
    flags = {
        "model": model,
        "data": data,
        "n": n,
        "eps": eps,
        "norm": norm,
        "effort": effort,
        "attacks": tuple(attack) if attack else None,
        "fail_under": fail_under,
        "reports": tuple(report) if report else None,
        "weights": weights,
        "mean": o.numbers(mean, "--mean"),
        "std": o.numbers(std, "--std"),
        "outputs": outputs,
        "size": o.whole_numbers(size, "--size"),
        "seed": seed,
        "batch_size": batch_size,
    }
    declared = o.declared(config, **flags)
    raise typer.Exit(run(declared.config, out=out, target=target, open_report=open_report, quiet=quiet))


def run(config: Config, *, out: Path | None, target: str | None, open_report: bool, quiet: bool) -> int:
    """Audit what `config` declares, show and save the report; the exit code."""
    from sparring.auditing import AuditInterrupted
    from sparring.auditing import audit as call

    console = Console()
    config, assumed = subject.with_defaults(config)
    for line in () if quiet else assumed:
        Console(stderr=True).print(f"assuming {line}", style="dim", highlight=False, markup=False)
    folder = out or Path("sparring-report")
    paths = config.audit.reports or tuple(folder / f"report{form}" for form in FORMS)
    _check_reports(paths)
    loaded = subject.load(config)
    wanted = subject.target_class(config, target, loaded.class_names)
    try:
        with show.progress(quiet) as progress:
            report = call(
                loaded.model,
                loaded.data.images,
                loaded.data.labels,
                loaded.threat,
                effort=config.audit.effort,
                attacks=config.audit.attacks,
                targets=None if wanted is None else loaded.data.labels.new_full((len(loaded.data.labels),), wanted),
                seed=config.audit.seed,
                batch_size=config.audit.batch_size,
                out=config.audit.records or folder / "records",
                fail_under=config.audit.fail_under,
                class_names=loaded.class_names,
                model_label=loaded.model_name,
                data_label=loaded.data.name,
                progress=progress,
            )
        interrupted = False
    except AuditInterrupted as stop:
        report, interrupted = stop.report, True
    saved = [report.save(path) for path in paths]
    if not quiet:
        from sparring.reports import terminal

        terminal.render(report, console)
    console.print("saved " + ", ".join(str(path) for path in saved), markup=False, highlight=False, soft_wrap=True)
    if interrupted:
        sys.stderr.write("interrupted: what was finished is kept, the same command goes on from there\n")
        return 130
    if open_report:
        show.open_in_browser(next((path for path in saved if path.suffix == ".html"), saved[0]))
    return 1 if report.gate is not None and not report.gate.passed else 0


def _check_reports(paths: tuple[Path, ...]) -> None:
    """Before the work, not after it: a suffix that no renderer knows, a place that cannot be written."""
    from sparring.files import check_writable

    for path in paths:
        if path.suffix.lower() not in FORMS:
            raise ConfigError(f"report path must end in {', '.join(FORMS)}, got {str(path)!r}")
        check_writable(path)
