"""`sparring attack`: one attack on one image or on a data set."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli import options as o
from sparring.cli import show, stacks, subject
from sparring.errors import ConfigError
from sparring.files import check_writable

if TYPE_CHECKING:
    from sparring.auditing import Exhibit
    from sparring.evaluation import Evaluation
    from sparring.loading import Config, ModelInfo


@o.with_subject()
def attack(
    flags: o.Flags,
    image: Annotated[
        str | None,
        typer.Option("--image", "-i", help="A PNG, JPEG or WebP picture, --image photo.jpg; or built in: chelsea."),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack",
            "-a",
            help="Name and parameters, --attack pgd:steps=40,restarts=5; one of your own, --attack "
            "my_attack.py:Mine:steps=3. Default: pgd, and for one image all its steps.",
        ),
    ] = None,
    list_attacks: Annotated[
        bool, typer.Option("--list", help="Show every attack (with --norm: those that work in it) and the efforts.")
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(
            help="Instead of an attack, adversarials made elsewhere for this data: a .npy file, (N, C, H, W), one per "
            "image in its order, --verify theirs.npy. Box and budget are measured and the model is asked."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="True class of the image, number or name, --label 285; default: what the model says."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to be reached, number or name, --target toaster; or --target least-likely, runner-up or "
            "random; default: any other."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for pictures, numbers and records, --out cat.")
    ] = Path("sparring-attack"),
    quiet: o.QuietFlag = False,
) -> None:
    """Attack one image or a data set; save the adversarials without loss, a picture and the numbers.

    Examples:
      sparring attack --model imagenet-lite0 --image photo.jpg --eps 2/255 --out cat/

      sparring attack --model digits-cnn --data digits -n 200 --attack fgsm --eps 0.1

      sparring attack -m imagenet-lite0 -i chelsea --eps 2/255 --target toaster

      sparring attack --model digits-cnn --data digits --verify theirs.npy --eps 0.1

      sparring attack --list --norm l1
    """
    if list_attacks:
        from sparring.cli import listing

        listing.show(flags.values["norm"])
        return
    if image is not None and any(flags.values[name] is not None for name in ("data", "n")):
        raise ConfigError("give --image or --data, not both")
    if verify is not None and (image is not None or attack is not None):
        raise ConfigError("--verify is about a data set and takes the place of --attack")
    if image is None and label is not None:
        raise ConfigError("--label is for one --image; a data set brings its own labels")
    shape = flags.values["size"], flags.values["channels"]
    if image is not None:
        flags = flags.without("size", "channels")  # they speak of the picture
    settings, assumed = subject.with_defaults(flags.declared().config)
    check_writable(out / "result.json")
    said = [*(line for line in assumed if not line.startswith("data:")), *stacks.remarks(settings)]
    show.assumptions(() if quiet else said)
    if image is not None:
        picture = Picture(image, *shape, label)
        _one_image(settings, picture, "pgd:early_stop=false" if attack is None else attack, target, out, quiet)
    else:
        _data_set(settings, verify or ("pgd" if attack is None else attack), target, out, quiet)


@dataclass(frozen=True)
class Picture:
    """What was said of the one image: where it is, its size and channels, its true class; None: not said."""

    spec: str
    size: int | tuple[int, ...] | None
    channels: int | None
    label: str | None


def _one_image(config: Config, picture: Picture, attack: str, target: str | None, out: Path, quiet: bool) -> None:
    from rich.console import Console

    from sparring.auditing import attack_image
    from sparring.loading import declared_model, declared_threat, load_image

    info = subject.builtin_info(config)
    names = None if info is None else info.class_names
    (chosen,) = subject.attacks([attack])
    pixels = load_image(picture.spec, **_shape(picture, config, info))
    wanted = subject.target_class(config, target, names)
    exhibit = attack_image(
        stacks.classifier(config, subject.told(declared_model(config))),
        pixels,
        declared_threat(config),
        chosen,
        label=subject.class_index(picture.label, names, "--label"),
        target=wanted,
        seed=config.audit.seed,
        class_names=names,
    )
    files = exhibit.save(out)
    if not quiet:
        _show_exhibit(exhibit)
    saved = ", ".join(str(path) for path in files.values())
    Console().print(f"saved {saved}", soft_wrap=True, highlight=False, markup=False)


def _shape(picture: Picture, config: Config, info: ModelInfo | None) -> dict[str, Any]:
    """Size and channels to read the picture in: as said, as declared for the data, as a built-in model wants it."""
    size, channels = picture.size, picture.channels
    if channels is None and config.data is not None:
        channels = config.data.channels
    if info is not None:
        size = info.shape[1:] if size is None else size
        channels = info.shape[0] if channels is None else channels
    elif size is None and config.data is not None:
        size = config.data.size
    return {"size": size, "channels": 3 if channels is None else channels}


def _show_exhibit(exhibit: Exhibit) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    verdict = "the attack succeeded" if exhibit.success else "the image held"
    console.print(Text(f"{exhibit.attack}, {exhibit.threat}, goal {exhibit.goal}: {verdict}", style="bold"))
    table = Table("", "prediction", "confidence", box=None, pad_edge=False)
    table.add_column("next", no_wrap=True, overflow="ellipsis")
    rows = (("before", exhibit.before), ("after, exact", exhibit.after), ("after, 8-bit picture", exhibit.rounded))
    for name, best in rows:
        others = ", ".join(f"{p.name} {100 * p.confidence:.1f} %" for p in best[1:])
        table.add_row(name, Text(best[0].name), f"{100 * best[0].confidence:.1f} %", Text(others))
    console.print(table)
    console.print(
        f"distance {exhibit.distance:.4g}; {exhibit.forwards} forward and {exhibit.backwards} backward passes",
        highlight=False,
    )
    if exhibit.success and not exhibit.survives_8bit:
        console.print("Rounding to 8 bits undid the attack: only the exact file is adversarial.", style="yellow")


def _data_set(config: Config, attack: str | Path, target: str | None, out: Path, quiet: bool) -> None:
    """An attack by its text, or the file of what another tool made."""
    from rich.console import Console

    from sparring.auditing import attack_set
    from sparring.evaluation import EvaluationInterrupted
    from sparring.evaluation.verify import given
    from sparring.loading import load_array

    named = [] if isinstance(attack, Path) else subject.attacks([attack])
    loaded = subject.load(config)
    chosen = named[0] if named else given(loaded.data.images, load_array(attack), loaded.threat)
    wanted = subject.target_class(config, target, loaded.class_names)
    try:
        with show.progress(quiet) as progress:
            evaluation, files = attack_set(
                stacks.classifier(loaded.config, loaded.model),
                loaded.data.images,
                loaded.data.labels,
                loaded.threat,
                chosen,
                out=out,
                targets=subject.targets(loaded, wanted),
                seed=config.audit.seed,
                batch_size=config.audit.batch_size,
                class_names=loaded.class_names,
                progress=progress,
            )
    except EvaluationInterrupted as stop:
        _say_what_is_kept(stop.evaluation, len(loaded.data.labels), out)
        raise typer.Exit(130) from None
    if not quiet:
        _show_evaluation(evaluation, loaded)
    saved = ", ".join(str(path) for path in files)
    Console().print(f"saved {saved}", soft_wrap=True, highlight=False, markup=False)


def _show_evaluation(evaluation: Evaluation, loaded: subject.Subject) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    stage = evaluation.stages[0]
    title = f"{stage.attack} on {loaded.model_name} with {loaded.data.name}, {loaded.threat!r}"
    console.print(title, style="bold", markup=False, soft_wrap=True)
    console.print(f"clean accuracy   {evaluation.clean_accuracy}", markup=False)
    console.print(f"robust accuracy  {evaluation.robust_accuracy}  (one attack only: an upper bound)", markup=False)
    console.print(f"attack success   {evaluation.attack_success_rate}", markup=False)
    if stage.rejected:
        console.print(f"{stage.rejected} candidates left the budget or the box and do not count", style="yellow")
    for warning in evaluation.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    tried = max(1, stage.tried)
    passes = f"{stage.forwards / tried:.1f} forward, {stage.backwards / tried:.1f} backward passes"
    console.print(f"per image tried  {passes}")


def _say_what_is_kept(evaluation: Evaluation, n: int, out: Path) -> None:
    tried = sum(stage.tried for stage in evaluation.stages)
    broke = sum(stage.broke for stage in evaluation.stages)
    if not evaluation.records:
        sys.stderr.write("interrupted before anything was finished: nothing was kept\n")
        return
    sys.stderr.write(
        f"interrupted: {len(evaluation.records)} of {n} images seen, {tried} attacked, {broke} broken; kept in "
        f"{out / 'records'}, the same command goes on from there\n"
    )
