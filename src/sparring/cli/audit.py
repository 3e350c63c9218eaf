"""`sparring audit`: the whole red-team exercise and its verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparring.cli import options as o
from sparring.cli import show, stacks, subject
from sparring.errors import ConfigError, InputError

if TYPE_CHECKING:
    from sparring.auditing import Report
    from sparring.loading import Config

FORMS = (".html", ".json", ".xml", ".sarif")
FOLDER = Path("sparring-report")

EffortFlag = Annotated[
    str | None,
    typer.Option(
        help="How hard to try, --effort thorough: quick while developing, standard (default) for a number to report, "
        "thorough to publish one, autoattack for that standard's own attacks. `sparring attack --list` shows what each "
        "may run; the report says what it ran and what that cost.",
        autocompletion=o.completing(o.EFFORTS),
    ),
]


@o.with_subject()
def audit(
    flags: o.Flags,
    effort: EffortFlag = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            "-a",
            help="Instead of an effort, --attack pgd:steps=100,restarts=5; repeat it for several, run in this order. "
            "One of your own: --attack my_attack.py:Mine:steps=3.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Class every image is to be turned into, number or name, --target 7; or one per image, --target "
            "least-likely, runner-up or random; default: any other."
        ),
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(
            help="The gate, --fail-under 0.4: exit 1 if the lower end of the robust accuracy's interval is below this "
            "share, or if a finding says that the number can't be believed."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for report.html, report.json, report.xml, report.sarif and the records to resume from, "
            "--out audit; default: sparring-report.",
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            help="Only this report, form by suffix .html .json .xml (JUnit) .sarif, --report gate.xml; repeat it. "
            "Without --out the records lie beside the first one, here in gate-records."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="A report.json of an earlier audit, --baseline old/report.json: the new report names the images that "
            "are newly broken and newly robust."
        ),
    ] = None,
    open_report: Annotated[bool, typer.Option("--open", help="Open the HTML report in a browser.")] = False,
    quiet: o.QuietFlag = False,
) -> None:
    """Attack a model in every way we know, check whether the result can be believed, write a report.

    Examples:
      sparring audit --model digits-cnn --eps 0.1

      sparring audit -m mypackage.nets:small -d ./pictures --weights net.safetensors --eps 8/255 --fail-under 0.4

      sparring audit   (reads ./sparring.toml)
    """
    if effort is not None and attack:
        raise ConfigError("give --effort or --attack, not both: an effort is a list of attacks")
    given = {"effort": effort, "attacks": tuple(attack) if attack else None}
    gate = {"fail_under": fail_under, "reports": tuple(report) if report else None}
    settings = flags.declared(**given, **gate).config
    over = {"attacks": None} if effort is not None else {}  # a flag goes over what the file says otherwise
    if out is not None and not report:
        over["reports"] = None
    settings = settings.model_copy(update={"audit": settings.audit.model_copy(update=over)})
    exit_code = run(settings, out=out, target=target, baseline=baseline, open_report=open_report, quiet=quiet)
    raise typer.Exit(exit_code)


def run(
    config: Config,
    *,
    out: Path | None,
    target: str | None,
    open_report: bool,
    quiet: bool,
    baseline: Path | None = None,
) -> int:
    """Audit what `config` declares, show and save the report; the exit code."""
    from rich.console import Console

    config, assumed = subject.with_defaults(config)
    paths, records = _places(config, out)
    from sparring.auditing import AuditInterrupted, audit
    from sparring.loading import as_script

    old = _baseline(baseline)
    attacks = None if config.audit.attacks is None else subject.attacks(config.audit.attacks)
    show.assumptions(() if quiet else (*assumed, *stacks.remarks(config)))
    loaded = subject.load(config)
    wanted = subject.target_class(config, target, loaded.class_names)
    interrupted = False
    try:
        with show.progress(quiet) as progress:
            report = audit(
                stacks.classifier(loaded.config, loaded.model),
                loaded.data.images,
                loaded.data.labels,
                loaded.threat,
                effort=config.audit.effort,
                attacks=attacks,
                targets=subject.targets(loaded, wanted),
                seed=config.audit.seed,
                batch_size=config.audit.batch_size,
                out=records,
                fail_under=config.audit.fail_under,
                baseline=old,
                class_names=loaded.class_names,
                model_label=loaded.model_name,
                data_label=loaded.data.name,
                setup=as_script(loaded.config, wanted),
                progress=progress,
            )
    except AuditInterrupted as stop:
        report, interrupted = stop.report, True
    saved = [report.save(path) for path in paths]
    console = Console()
    if not quiet:
        from sparring.reports import terminal

        terminal.render(report, console)
    console.print("saved " + ", ".join(str(path) for path in saved), markup=False, highlight=False, soft_wrap=True)
    if interrupted:
        sys.stderr.write(f"interrupted: what was finished is kept in {records}, the same command goes on from there\n")
        return 130
    if open_report:
        show.open_in_browser(next((path for path in saved if path.suffix == ".html"), saved[0]))
    return 1 if report.gate is not None and not report.gate.passed else 0


def _places(config: Config, out: Path | None) -> tuple[tuple[Path, ...], Path]:
    """The reports and the folder of the records: what was asked for, else all forms in one folder, else (reports
    alone were named) records beside the first report.
    """
    named = config.audit.reports
    folder = out or FOLDER
    paths = named or tuple(folder / f"report{form}" for form in FORMS)
    o.check_reports(paths, FORMS)
    beside = named[0].with_name(f"{named[0].stem}-records") if named and out is None else folder / "records"
    return paths, config.audit.records or beside


def _baseline(path: Path | None) -> Report | None:
    """The report to compare with, read before the work begins."""
    if path is None:
        return None
    from sparring.auditing import load_report

    try:
        return load_report(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--baseline {path} cannot be read: {error.strerror}; name an audit's report.json") from error
    except InputError as error:
        raise ConfigError(f"--baseline {path}: {error}; name an audit's report.json") from error
