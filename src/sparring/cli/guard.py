"""`sparring guard`: the declared stack over HTTP, watched; and what belongs to it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli import options as o
from sparring.cli import show, stacks, subject
from sparring.errors import ConfigError

if TYPE_CHECKING:
    from sparring.guard.events.store import Store
    from sparring.loading import Config
    from sparring.loading.guard_table import GuardTable

PROFILE = Path("sparring-guard.json")
app = typer.Typer(
    help="Serve the declared stack over HTTP, keep every decision, watch every client.", no_args_is_help=False
)
SinceFlag = Annotated[float, typer.Option(help="Only events of the last so many days, --days 7.", min=0)]


def _settings(config: Config) -> GuardTable:
    from sparring.loading.guard_table import GuardTable

    return config.guard or GuardTable()


def _store(settings: GuardTable) -> Store:
    from sparring.guard.events.store import Store

    return Store(os.environ.get("SPARRING_GUARD_DATABASE") or settings.database)


def _needs_extra() -> None:
    from sparring.errors import MissingExtraError

    try:
        for name in ("fastapi", "sqlalchemy", "uvicorn"):
            import_module(name)
    except ImportError as error:
        raise MissingExtraError("sparring guard", "guard") from error


@app.callback(invoke_without_command=True)
def guard(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on, --host 0.0.0.0; default: loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, --port 8080; 0 takes a free one.")] = None,
    model: o.ModelFlag = None,
    weights: o.WeightsFlag = None,
    profile: Annotated[
        Path | None, typer.Option(help="What calibrate learned, --profile sparring-guard.json; without: no watching.")
    ] = None,
    config: o.ConfigFlag = None,
) -> None:
    """Serve the declared stack over HTTP, keep every decision, watch every client.

    Examples:
      sparring guard calibrate --calibration ./benign && sparring guard --profile sparring-guard.json

      sparring guard --host 0.0.0.0 --port 8080   (tokens must be declared)
    """
    if context.invoked_subcommand is not None:
        return
    _needs_extra()
    from sparring.guard.building import engine_of
    from sparring.guard.serve import serve
    from sparring.guard.service import Guard

    def settings() -> Config:
        return o.declared(config, host=host, port=port, model=model, weights=weights, profile=profile).config

    declared = _settings(settings())
    if declared.reaudit_hours:
        from sparring.loading.config import present

        present(subject.with_defaults(settings())[0].data, "data, which [guard] reaudit_hours needs,")
    if declared.host not in ("127.0.0.1", "::1", "localhost") and declared.tokens is None:
        raise ConfigError(
            f"host {declared.host} can be reached from elsewhere: write tokens with `sparring guard token NAME` and "
            "name their file in [guard] tokens"
        )
    typer.echo(f"http://{declared.host}:{declared.port}/  (operators: /operator/, documentation: /docs)")
    flags = {"--config": config, "--model": model, "--weights": weights}
    given = [str(part) for flag, value in flags.items() if value is not None for part in (flag, value)]
    again = [sys.executable, "-c", "from sparring.cli import main; main()", "guard", "reaudit", *given]
    serve(Guard(lambda: engine_of(settings(), str(stacks.FOLDER)), declared, again), declared.host, declared.port)


@app.command()
def calibrate(
    calibration: Annotated[
        str | None,
        typer.Option(help="Benign images, --calibration ./benign; default: stack.calibration, else training data."),
    ] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Learn from the events that the guard has stored instead.")
    ] = False,
    days: SinceFlag = 30.0,
    sessions: Annotated[int, typer.Option(help="Sessions to make of the images, --sessions 400.", min=20)] = 400,
    seed: Annotated[int, typer.Option(help="Of the sessions, --seed 7.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to, --out profile.json.")] = PROFILE,
    config: o.ConfigFlag = None,
) -> None:
    """Learn from benign traffic what is normal, so that what is not raises an alarm.

    Half of the sessions made from images are of different ones, the rest is as a camera sees them, moving or still.

    Examples:
      sparring guard calibrate --calibration ./benign --out profile.json

      sparring guard calibrate --recorded --days 7
    """
    _needs_extra()
    from sparring.guard.building import engine_of
    from sparring.guard.calibration import from_images, from_records

    settings = o.declared(config, calibration=calibration).config
    engine = engine_of(settings, str(stacks.FOLDER))
    if recorded:
        profile = from_records(engine, _store(_settings(settings)), days)
    else:
        full, _ = subject.with_defaults(settings)
        profile = from_images(engine, stacks.calibration(full), sessions, seed)
    profile.save(out)
    typer.echo(f"learned from {profile.images} images in {profile.sessions} sessions")
    typer.echo(f"saved {out}")


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Whose it is, such as team-a.")],
    operator: Annotated[bool, typer.Option("--operator", help="It may also see the operators' pages.")] = False,
    config: o.ConfigFlag = None,
    path: Annotated[
        Path | None, typer.Option("--file", help="File of hashed tokens, --file tokens.txt; default: guard.tokens.")
    ] = None,
) -> None:
    """Make a bearer token, show it this once, and store its hash.

    Examples:
      sparring guard token team-a --file tokens.txt
    """
    _needs_extra()
    from sparring.guard.clients import new_token

    path = path or _settings(o.declared(config).config).tokens or Path("sparring-tokens.txt")
    typer.echo(new_token(path, name, "operator" if operator else "client"))


@app.command()
def retain(
    days: Annotated[float | None, typer.Option(help="Keep so many days, --days 14; default: guard.keep_days.")] = None,
    config: o.ConfigFlag = None,
) -> None:
    """Delete events, alerts, sanctions and quarantined pictures that are too old.

    Examples:
      sparring guard retain --days 14
    """
    _needs_extra()
    from sparring.guard.quarantine import Quarantine

    settings = _settings(o.declared(config).config)
    gone = _store(settings).retain(settings.keep_days if days is None else days)
    if settings.quarantine is not None:
        kept = Quarantine(settings.quarantine, settings.quarantine_most, settings.quarantine_days)
        gone["pictures"] = kept.tidy()
    typer.echo("deleted " + ", ".join(f"{count} {what}" for what, count in gone.items()))


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, --out reviewed.")] = Path("reviewed"),
    config: o.ConfigFlag = None,
) -> None:
    """Write reviewed pictures as a folder of class folders, which `sparring harden --data` reads.

    Examples:
      sparring guard export --out reviewed
    """
    _needs_extra()
    from sparring.guard.building import engine_of
    from sparring.guard.reviews import export_folder

    settings = o.declared(config).config
    count = export_folder(
        _store(_settings(settings)), _settings(settings), engine_of(settings, str(stacks.FOLDER)), out
    )
    typer.echo(f"saved {count} pictures in {out}")


@app.command()
def reaudit(
    accept: Annotated[
        bool, typer.Option("--accept", help="Measure later re-audits against what this one finds, whatever it is.")
    ] = False,
    key: Annotated[str, typer.Option(hidden=True)] = "",
    stack: Annotated[str, typer.Option(hidden=True)] = "",
    model: o.ModelFlag = None,
    weights: o.WeightsFlag = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the audit's report.html, --out reaudit.")] = Path(
        "sparring-reaudit"
    ),
    config: o.ConfigFlag = None,
) -> None:
    """Audit the served stack again, and say where it became weaker: exit 1, and an alert of the running guard.

    The guard does this by itself every guard.reaudit_hours. The first one is what later ones are measured against.

    Examples:
      sparring guard reaudit

      sparring guard reaudit --accept
    """
    _needs_extra()
    from sparring.guard.building import attacked, engine_of
    from sparring.guard.reaudits import comparison
    from sparring.guard.reaudits.task import reaudited
    from sparring.loading import declared_data, declared_threat

    settings, assumed = subject.with_defaults(o.declared(config, model=model, weights=weights).config)
    show.assumptions(assumed)
    table, engine = _settings(settings), engine_of(settings, str(stacks.FOLDER))
    if stack not in ("", engine.digest):
        raise ConfigError("what is declared now is another stack than the one that is served: send the guard SIGHUP")
    if key and hasattr(os, "nice"):
        os.nice(19)  # beside the guard that started it
    store, options = _store(table), {"effort": table.reaudit_effort, "key": key}
    served, data, threat = (
        attacked(settings, engine, str(stacks.FOLDER)),
        declared_data(settings),
        declared_threat(settings),
    )
    row = reaudited(
        served, engine.digest, data, threat, store, images=table.reaudit_images, report=out / "report.html", **options
    )
    if accept:
        comparison.accept(store, row["key"])
    typer.echo(row["verdict"])
    raise typer.Exit(int(row["worse"] and not accept))


@app.command()
@o.with_subject(but=["batch_size"])
def spar(
    flags: o.Flags,
    url: Annotated[str, typer.Option(help="The guard, --url http://127.0.0.1:8765.")] = "http://127.0.0.1:8765",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="square, hopskipjump, nes, careful, or benign (none), --attack square; repeat it. Default: all."
        ),
    ] = None,
    queries: Annotated[int, typer.Option(help="Per session, at most, --queries 500.", min=1, max=20_000)] = 300,
    seconds: Annotated[float, typer.Option(help="Per session, at most, --seconds 60.", min=1)] = 60.0,
    i_own: Annotated[str, typer.Option(help="Confirms a host that is not this machine, --i-own guard.example.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON to write, --out spar.json.")] = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Attack one's own running guard, to learn how many queries pass before it raises an alert.

    Every image is one session with an address of its own. A bearer token is read from SPARRING_GUARD_TOKEN; with one,
    or away from this machine, all sessions are one client, and only the first alert means something.

    Examples:
      sparring guard spar -n 20 --eps 0.1

      sparring guard spar --attack square --attack careful --queries 500 -n 50 --eps 0.1 --out spar.json
    """
    _needs_extra()
    from sparring.guard.spar.remote import check_target

    check_target(url, i_own)
    settings, assumed = subject.with_defaults(flags.declared().config)
    show.assumptions(() if quiet else assumed)
    raise typer.Exit(_sparred(settings, url, attack or [], (queries, seconds), out, quiet))


def _sparred(
    config: Config, url: str, attacks: list[str], most: tuple[int, float], out: Path | None, quiet: bool
) -> int:
    import dataclasses
    import json

    from sparring.files import write_whole
    from sparring.guard.spar.run import rounds

    loaded = subject.load(config)
    settings = _settings(config)
    found = rounds(
        loaded.model,
        loaded.data.images[0 : len(loaded.data.labels)],
        loaded.data.labels,
        loaded.threat,
        url=f"{url.rstrip('/')}/v2/models/{settings.served_as}/infer",
        attacks=attacks,
        queries=most[0],
        seconds=most[1],
        token=os.environ.get("SPARRING_GUARD_TOKEN", ""),
        store=_store(settings),
    )
    told: dict[str, Any] = {}
    for kind, (summary, bouts) in found.items():
        told[kind] = {"summary": summary, "sessions": [dataclasses.asdict(bout) for bout in bouts]}
        if not quiet:
            typer.echo(f"{kind}: " + ", ".join(f"{name} {value}" for name, value in summary.items()))
    if out is not None:
        write_whole(out, (json.dumps(told, indent=2) + "\n").encode())
        typer.echo(f"saved {out}")
    return 0
