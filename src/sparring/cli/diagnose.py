"""`sparring diagnose`: why the model falls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli import options as o
from sparring.cli import show, subject
from sparring.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model whose adversarials are tried on this one, SPEC or SPEC@weights.safetensors: "
            "--surrogate nets:wide@wide.safetensors; repeat it.",
        ),
    ] = None,
    learn: Annotated[
        int,
        typer.Option(
            help="Two surrogates of different kinds learn from this many images of the data's training split, with "
            "their labels and without the model: --learn 1000; default: none.",
            min=0,
        ),
    ] = 0,
    bpda: Annotated[
        list[str] | None,
        typer.Option(
            help="A part of the model that blocks the gradient, and what stands in for it backward, an import path or "
            "identity: --bpda jpeg=identity; repeat it.",
        ),
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="A file to write, .html or .json, --report diagnosis.html; repeat it.")
    ] = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Explain why a model falls: first-order picture, sensitivity, gradient health, landscapes, transfer.

    Examples:
      sparring diagnose -m digits-cnn --eps 0.1 --report diagnosis.html

      sparring diagnose -m digits-cnn -n 100 --eps 0.1 --sample 32 --queries 500 --learn 500

      sparring diagnose -m digits-cnn --eps 0.1 --bpda 1=identity
    """
    o.check_reports(report or ())
    settings, assumed = subject.with_defaults(flags.declared().config)
    show.assumptions(() if quiet else assumed)
    loaded = subject.load(settings)
    from rich.console import Console

    from sparring.diagnosis.diagnose import diagnose as explained
    from sparring.files import write_whole
    from sparring.loading import declared_data, merge
    from sparring.reports import diagnosis as rendered

    others = None
    if learn:
        own = declared_data(merge(settings, split="train", n=learn))
        others = (own.images[0 : len(own.labels)], own.labels)
    found = explained(
        _around(loaded.model, bpda or ()),
        loaded.data.images,
        loaded.data.labels,
        loaded.threat,
        sample=sample,
        landscapes=landscapes,
        queries=queries,
        surrogates=subject.other_models(settings, surrogate or ()),
        others=others,
        seed=settings.audit.seed,
        progress=None if quiet else _told,
    )
    found = found.model_copy(update={"model": loaded.model_name})
    if not quiet:
        rendered.terminal(found, Console())
    for path in report or ():
        html = path.suffix.lower() == ".html"
        text = rendered.html(found) if html else found.model_dump_json(indent=1) + "\n"
        write_whole(path, text.encode("utf-8", errors="replace"))
        typer.echo(f"saved {path}")


def _around(model: Any, named: Sequence[str]) -> Any:
    """The model, with the gradient led around the parts that were named."""
    if not named:
        return model
    from pkgutil import resolve_name

    from sparring.loading.factories import importable
    from sparring.surrogates import IDENTITY
    from sparring.surrogates import bpda as led_around

    stand_ins: dict[str, Any] = {}
    for text in named:
        name, separator, way = text.partition("=")
        if not separator or not name or not way:
            raise ConfigError(f"--bpda is written NAME=identity or NAME=package.module:function, got {text!r}")
        try:
            with importable(Path.cwd()):
                stand_ins[name] = way if way == IDENTITY else resolve_name(way)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"--bpda {text}: {error}") from error
    return led_around(model, stand_ins)


def _told(section: str) -> None:
    sys.stderr.write(f"{section}\n")
