"""`sparring harden`: adversarial training that resumes, with its evidence."""

from __future__ import annotations

import os
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
    from sparring.hardening import Hardened, TrainingProgress
    from sparring.loading import Config, Dataset

    Report = Callable[[TrainingProgress], None]

FOLDER = Path("sparring-hardened")
METHODS = ("clean", "fgsm_mix", "rs_fgsm", "n_fgsm", "free", "pgd", "trades", "mart", "certified", "gaussian")


@o.with_subject()
def harden(
    flags: o.Flags,
    method: Annotated[
        str | None,
        typer.Option(
            help="How to train: fast (default), pgd or trades; others and their parameters as in --method pgd:steps=10 "
            "or --method n_fgsm:noise=1.",
            autocompletion=o.completing(METHODS),
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data, --epochs 30; default 15, fast 20, more on small sets.")
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            help="Images for the final audit, a folder or file, --test ./reviewed; default: the test part of a "
            "built-in data set, else images kept from training."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for state, weights, model card and log, --out hardened.")
    ] = FOLDER,
    inner: Annotated[
        str | None, typer.Option(help="Another attack to train against, --inner mifgsm:steps=5 (pgd, trades, mart).")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak of the learning rate, --lr 0.001.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam (default) or sgd, --optimizer sgd.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step, --batch-size 64; default 128, fewer on small sets.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Compute a step in so many pieces, to save memory, --accumulate 4.")
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Parameters that stay as they are, by name pattern, --freeze features.weight or with *; repeat it."
        ),
    ] = None,
    augment: Annotated[list[str] | None, typer.Option(help="crop, flip or cutout, --augment crop; repeat it.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better robust accuracy, --patience 5.")
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share or number of images kept for the watch, --validation 0.2.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other setting, --set awp=0.005 or --set eps_warmup=0.3 or --set recover=false; repeat it.",
        ),
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(help="Effort of the final audit, --effort quick; default standard, none leaves it out."),
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Exit 1 if the lower end of the robust accuracy's interval is below, --fail-under 0.5."),
    ] = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Adversarial training: weights that withstand the attack, and a model card that shows it.

    The same command goes on where an interrupted one stopped. Under torchrun several processes train together.

    Examples:
      sparring harden --model digits-cnn --eps 0.1 --epochs 10

      sparring harden -m nets.py:small -d fashion-mnist --method pgd --eps 0.1 --out robust

      sparring harden -m imagenet-lite0 -d ./reviewed --eps 4/255 --epochs 2 --batch-size 8 --freeze '*blocks.?.*'
    """
    settings = {
        "lr": lr,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "freeze": tuple(freeze) if freeze else None,
        "augment": tuple(augment) if augment else None,
        "patience": patience,
        "validation": None if validation is None else _whole_if_large(validation),
    }
    declared = flags.declared(method=method, epochs=epochs, test=test, final=effort).config
    table = declared.harden
    given = {name: value for name, value in settings.items() if value is not None} | _settings(setting or [])
    chosen = table.method
    if inner is not None:
        chosen += f"{',' if ':' in chosen else ':'}inner={inner}"
    if table.final not in (*o.EFFORTS, "none"):
        raise ConfigError(unknown("effort", table.final, [*o.EFFORTS, "none"]))
    final = None if table.final == "none" else table.final
    given = {**table.settings, **given}
    raise typer.Exit(run(declared, chosen, table.epochs, given, table.test, out, final, fail_under, quiet))


def run(
    config: Config,
    method: str,
    epochs: int | None,
    settings: dict[str, Any],
    test: str | None,
    out: Path,
    effort: str | None,
    fail_under: float | None,
    quiet: bool,
) -> int:
    """Harden what `config` declares; the exit code."""
    from sparring.files import check_writable
    from sparring.hardening import HardeningInterrupted, harden, seeded

    if fail_under is not None and effort is None:
        raise ConfigError("--fail-under needs the final audit: leave out --effort none")
    check_writable(out / "model.safetensors")
    leads = os.environ.get("RANK", "0") == "0"
    config, assumed = subject.with_defaults(config)
    config, test_config, said = _parts(config, test)
    show.assumptions((*assumed, *said) if leads and not quiet else ())
    with seeded(config.audit.seed):  # a factory may draw its first weights, and a resumed run needs the same
        loaded = subject.load(config)
    tested = None if test_config is None else _pair(subject.load(test_config).data)
    try:
        with _progress(quiet or not leads) as progress:
            hardened = harden(
                loaded.model,
                _pair(loaded.data),
                loaded.threat,
                method=method,
                epochs=epochs,
                seed=config.audit.seed,
                test=tested,
                effort=effort,
                out=out,
                progress=progress,
                **settings,
            )
    except HardeningInterrupted as stop:
        done = sum(epoch.kept for epoch in stop.history)
        begun = (out / "state.pt").exists()
        kept = f"kept in {out}, the same command goes on from there" if begun else "nothing is kept yet"
        sys.stderr.write(f"interrupted after {done} epochs: {kept}\n")
        return 130
    if leads:
        _tell(hardened, out, quiet)
    after = hardened.card.after
    return 1 if fail_under is not None and after is not None and after.robust.low < fail_under else 0


def _parts(config: Config, test: str | None) -> tuple[Config, Config | None, list[str]]:
    """What to train on, what to test on (a source if named, else the test part where there is one), and what to say.

    A source that has a part to train on is trained on that part, also where [data] names the other one to be audited:
    images that were learned say nothing about accuracy.
    """
    from sparring.loading import merge
    from sparring.loading.config import present

    table = present(config.data, "data")
    held, train = table.model_copy(update={"split": "test", "n": None}), config
    if table.split == "test" and _has_training_part(config):
        train = merge(config, split="train")
    elif test is None:
        return config, None, [f"that {table.source} is for training: audit the result on other images (--test)"]
    if test is not None:
        held = held.model_copy(update={"source": test, "labels": None})
    few = [] if table.n is None else [f"n = {table.n} for the images to train on, too"]
    return train, config.model_copy(update={"data": held}), few


def _has_training_part(config: Config) -> bool:
    from sparring.loading import declared_data, merge
    from sparring.loading.source import NoPartError

    try:
        declared_data(merge(config, split="train", n=1))
    except NoPartError:
        return False
    return True


def _pair(data: Dataset) -> tuple[Any, Any]:
    return data.images, data.labels


def _whole_if_large(number: float) -> float | int:
    return int(number) if number >= 1 and number == int(number) else number


def _settings(texts: list[str]) -> dict[str, Any]:
    """name=value pairs: numbers, true, false, none or a word."""
    words = {"true": True, "false": False, "none": None}
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not value:
            raise ConfigError(f"--set takes name=value, got {text!r}")
        found[name] = words[value.lower()] if value.lower() in words else _number(value)
    return found


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _tell(hardened: Hardened, out: Path, quiet: bool) -> None:
    from rich.console import Console

    console = Console()
    card = hardened.card
    if not quiet:
        for change in card.changes:
            console.print(f"the watch stepped in: {change}", markup=False, highlight=False)
        if card.before is not None and card.after is not None:
            console.print(f"clean    {card.before.clean} -> {card.after.clean}", markup=False, highlight=False)
            console.print(f"robust   {card.before.robust} -> {card.after.robust}", markup=False, highlight=False)
            asked = f"{card.threat_text}, {card.after.effort} effort, on {card.data['tested_on']}"
            console.print(f"against  {asked}", markup=False, highlight=False)
    console.print(
        f"saved {out / 'model.safetensors'}, {out / 'card.md'}", markup=False, highlight=False, soft_wrap=True
    )


@contextmanager
def _progress(quiet: bool) -> Iterator[Report]:
    """A bar on a terminal, one line per epoch elsewhere, both on standard error and with the time left."""
    if quiet:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        yield _in_log
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None, epoch="", told="")

        def update(event: TrainingProgress) -> None:
            epoch, told = f"{event.epoch}/{event.epochs}", _robust(event) + _left(event)
            bars.update(task, completed=event.step, total=event.steps, epoch=epoch, told=told)
            if event.note:
                bars.console.print(f"epoch {event.epoch}: {event.note}", markup=False, highlight=False)

        yield update


def _in_log(event: TrainingProgress) -> None:
    if event.ended:
        note = f"; {event.note}" if event.note else ""
        sys.stderr.write(f"epoch {event.epoch}/{event.epochs}: {_robust(event)}{_left(event)}{note}\n")
        sys.stderr.flush()


def _robust(event: TrainingProgress) -> str:
    if event.robust is None:
        return ""
    budget = "" if event.eps is None else f" at eps {event.eps:.3g}"
    return f"PGD-10 {100 * event.robust:.1f} %{budget}, n = {event.watched}"


def _left(event: TrainingProgress) -> str:
    if event.seconds_left is None:
        return ""
    if event.step == event.steps:
        return ", trained"
    minutes, seconds = divmod(round(event.seconds_left), 60)
    return f", {minutes}:{seconds:02d} of training left"
