"""`sparring certify`: what no attack can break."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli import options as o
from sparring.cli import show, subject
from sparring.errors import ConfigError, unknown

if TYPE_CHECKING:
    from sparring.certification import Certificate
    from sparring.loading import Config
    from sparring.reports.certificates import Point

METHODS = ("crown", "crown-ibp", "ibp", "smoothing", "lipschitz")
STEPS = 9


@o.with_subject(but=["batch_size"])
def certify(
    flags: o.Flags,
    method: Annotated[
        str,
        typer.Option(
            help="How to prove, --method ibp: crown (default), crown-ibp, ibp, lipschitz; or smoothing, which is about "
            "the smoothed model and needs --norm l2.",
            autocompletion=o.completing(METHODS),
        ),
    ] = "crown",
    radius: Annotated[
        bool, typer.Option("--radius", help="Also each image's largest budget, by halving: the chart over epsilon.")
    ] = False,
    bracket: Annotated[
        bool, typer.Option("--bracket", help="Also attack, so that the true accuracy stands between two numbers.")
    ] = False,
    slopes: Annotated[int, typer.Option(help="Steps of ascent on the lines of the ReLUs, --slopes 20.")] = 0,
    work: Annotated[
        int,
        typer.Option(
            help="Layers with more values than this keep their interval bounds (crown), --work 20000: tighter, dearer.",
            min=0,
        ),
    ] = 4096,
    sigma: Annotated[float, typer.Option(help="Noise of smoothing, in units of the images, --sigma 0.5.")] = 0.25,
    draws: Annotated[int, typer.Option(help="Noisy copies per image for smoothing, --draws 10000.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Chance that a smoothing radius is wrong, --alpha 0.01.")] = 0.001,
    report: Annotated[
        list[Path] | None,
        typer.Option(help="A file to write, .html or .json, --report proof.html; repeat it."),
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Exit 1 if the lower end of the certified accuracy's interval is below, --fail-under 0.5."),
    ] = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Prove, image by image, that no attack within the budget changes the answer.

    A certificate is about the model alone, never about a stack of defenses around it.

    Examples:
      sparring certify --model digits-cnn --eps 0.01 -n 100

      sparring certify -m nets.py:small -d fashion-mnist --weights robust.safetensors --eps 0.1 --bracket --radius

      sparring certify -m digits-cnn --norm l2 --eps 0.25 --method smoothing --sigma 0.25 --draws 10000 -n 50
    """
    if method not in METHODS:
        raise ConfigError(unknown("method", method, list(METHODS)))
    if bracket and method == "smoothing":
        raise ConfigError("--bracket is about the model; a smoothing certificate is not: leave one of them out")
    o.check_reports(report or ())
    settings = flags.declared().config
    if settings.stack is not None and settings.stack.transforms and not quiet:
        show.assumptions(["the model alone: a certificate does not cover the [stack] around it"])
    how = {"method": method, "slopes": slopes, "radius": 12 if radius else 0, "work": work}
    noise = {"sigma": sigma, "n": draws, "alpha": alpha} if method == "smoothing" else None
    raise typer.Exit(run(settings, how, noise, bracket, tuple(report or ()), fail_under, quiet))


def run(
    config: Config,
    how: dict[str, Any],
    noise: dict[str, Any] | None,
    attacked: bool,
    paths: tuple[Path, ...],
    fail_under: float | None,
    quiet: bool,
) -> int:
    """Certify what `config` declares; the exit code."""
    from rich.console import Console

    from sparring.certification import Smoothing, certify
    from sparring.files import write_whole
    from sparring.reports import certificates

    config, assumed = subject.with_defaults(config)
    show.assumptions(() if quiet else assumed)
    loaded = subject.load(config)
    count = len(loaded.data.labels)
    with _progress(quiet) as tell:
        certificate = certify(
            loaded.model,
            loaded.data.images[0:count],
            loaded.data.labels,
            loaded.threat,
            smoothing=None if noise is None else Smoothing(**noise),
            seed=config.audit.seed,
            progress=tell,
            **how,
        )
    points = _points(certificate, loaded, attacked, config.audit.seed, quiet)
    if not quiet:
        certificates.terminal(certificate, points, Console())
    for path in paths:
        if path.suffix.lower() == ".json":
            plain = certificate.plain() | {"bracket": [_plain(point) for point in points]}
            text = json.dumps(plain, indent=2) + "\n"
        else:
            text = certificates.html(
                certificate, points, model=loaded.model_name, data=loaded.data.name, eps=loaded.threat.eps_text
            )
        write_whole(path, text.encode("utf-8", errors="replace"))
        typer.echo(f"saved {path}")
    return 1 if fail_under is not None and certificate.certified_accuracy.low < fail_under else 0


def _points(certificate: Certificate, loaded: subject.Subject, attacked: bool, seed: int, quiet: bool) -> list[Point]:
    """Certified and, if asked for, attacked accuracy over epsilon: at the budget alone without radii."""
    from sparring.evaluation import robustness_curve

    top = loaded.threat.eps * (1 if certificate.radius is None else 2)
    budgets = [loaded.threat.eps] if certificate.radius is None else [top * i / (STEPS - 1) for i in range(STEPS)]
    lows = [certificate.certified_at(eps) for eps in budgets]
    if not attacked:
        return [(eps, low, None) for eps, low in zip(budgets, lows, strict=True)] if len(budgets) > 1 else []
    with show.progress(quiet) as progress:
        curve = robustness_curve(
            loaded.model,
            loaded.data.images,
            loaded.data.labels,
            norm=loaded.threat.norm,
            eps=budgets,
            bounds=loaded.threat.bounds,
            mask=loaded.threat.mask,
            seed=seed,
            progress=progress,
        )
    return list(zip(budgets, lows, curve.accuracy, strict=True))


def _plain(point: Point) -> dict[str, float | None]:
    eps, low, high = point
    return {"eps": eps, "certified": low.value, "attacked": None if high is None else high.value}


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, a line at the end elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with show.bars() as shown:
            task = shown.add_task("certify", total=None, robust="")
            yield lambda done, total: shown.update(task, completed=done, total=total)
    else:
        yield _in_log


def _in_log(done: int, total: int) -> None:
    if done == total:
        sys.stderr.write(f"certify: {total} images\n")
