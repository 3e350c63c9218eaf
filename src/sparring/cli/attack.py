"""`sparring attack`: one attack on one image or on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparring.cli import options as o
from sparring.cli import show, subject
from sparring.errors import ConfigError
from sparring.loading import Config, load_image


def attack(
    model: o.ModelFlag = None,
    image: Annotated[
        str | None, typer.Option("--image", "-i", help="A picture (PNG, JPEG, WebP), or a photograph such as chelsea.")
    ] = None,
    data: o.DataFlag = None,
    n: o.NumberFlag = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack",
            "-a",
            help="Name and parameters, pgd:steps=40,restarts=5; default pgd, for an image without early stop.",
        ),
    ] = None,
    eps: o.EpsFlag = None,
    norm: o.NormFlag = None,
    label: Annotated[str | None, typer.Option(help="True class of the image; default: what the model says.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Class to be reached (number or name); default: any other.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures, numbers and records.")] = Path(
        "sparring-attack"
    ),
    weights: o.WeightsFlag = None,
    mean: o.MeanFlag = None,
    std: o.StdFlag = None,
    outputs: o.OutputsFlag = None,
    size: o.SizeFlag = None,
    seed: o.SeedFlag = None,
    config: o.ConfigFlag = None,
    quiet: o.QuietFlag = False,
) -> None:
    """Attack one image or a data set; save the adversarials without loss, a picture and the numbers.

    Examples:
      sparring attack --model imagenet-lite0 --image photo.jpg --eps 2/255 --out cat/

      sparring attack --model digits-cnn --data digits -n 200 --attack fgsm --eps 0.1

      sparring attack -m imagenet-lite0 -i chelsea --eps 2/255 --target toaster
    """
    flags = {
        "model": model,
        "data": data,
        "n": n,
        "eps": eps,
        "norm": norm,
        "weights": weights,
        "mean": o.numbers(mean, "--mean"),
        "std": o.numbers(std, "--std"),
        "outputs": outputs,
        "size": o.whole_numbers(size, "--size"),
        "seed": seed,
    }
    if image is not None and (data is not None or n is not None):
        raise ConfigError("give --image or --data, not both")
    if image is not None:  # --size then speaks of the picture, and no data set is needed
        flags["size"] = None
    settings = o.declared(config, **flags).config
    if image is not None:
        _one_image(
            settings,
            image,
            o.whole_numbers(size, "--size"),
            attack or "pgd:early_stop=false",
            label,
            target,
            out,
            quiet,
        )
    else:
        if label is not None:
            raise ConfigError("--label is for one --image; a data set brings its own labels")
        _data_set(settings, attack or "pgd", target, out, quiet)


def _one_image(
    config: Config,
    image: str,
    size: int | tuple[int, ...] | None,
    attack: str,
    label: str | None,
    target: str | None,
    out: Path,
    quiet: bool,
) -> None:
    from sparring.attacks import parse
    from sparring.auditing import attack_image
    from sparring.loading import declared_model, declared_threat

    config, assumed = subject.with_defaults(config)
    _say(assumed, quiet)
    info = subject.builtin_info(config)
    names = None if info is None else info.class_names
    if size is None and info is not None:
        size = info.shape[1:]
    declared = config.data
    if size is None and declared is not None:
        size = declared.size
    channels = 3 if info is None else info.shape[0]
    if declared is not None and declared.channels is not None:
        channels = declared.channels
    chosen = parse(attack)
    picture = load_image(image, size=size, channels=channels)
    exhibit = attack_image(
        declared_model(config),
        picture,
        declared_threat(config),
        chosen,
        label=subject.class_index(label, names, "--label"),
        target=subject.target_class(config, target, names),
        seed=config.audit.seed,
        class_names=names,
    )
    files = exhibit.save(out)
    if not quiet:
        _show_exhibit(exhibit)
    Console().print(
        "saved " + ", ".join(str(path) for path in files.values()), soft_wrap=True, highlight=False, markup=False
    )


def _show_exhibit(exhibit: Any) -> None:
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


def _data_set(config: Config, attack: str, target: str | None, out: Path, quiet: bool) -> None:
    from sparring.attacks import parse
    from sparring.auditing import attack_set

    chosen = parse(attack)
    config, assumed = subject.with_defaults(config)
    _say(assumed, quiet)
    loaded = subject.load(config)
    wanted = subject.target_class(config, target, loaded.class_names)
    with show.progress(quiet) as progress:
        evaluation, files = attack_set(
            loaded.model,
            loaded.data.images,
            loaded.data.labels,
            loaded.threat,
            chosen,
            out=out,
            target=wanted,
            seed=config.audit.seed,
            batch_size=config.audit.batch_size,
            class_names=loaded.class_names,
            progress=progress,
        )
    console = Console(highlight=False)
    if not quiet:
        stage = evaluation.stages[0]
        console.print(
            f"{stage.attack} on {loaded.model_name} with {loaded.data.name}, {loaded.threat!r}",
            style="bold",
            markup=False,
        )
        console.print(f"clean accuracy   {evaluation.clean_accuracy}", markup=False)
        console.print(f"robust accuracy  {evaluation.robust_accuracy}  (one attack only: an upper bound)", markup=False)
        console.print(f"attack success   {evaluation.attack_success_rate}", markup=False)
        tried = max(1, stage.tried)
        console.print(
            f"per image tried  {stage.forwards / tried:.1f} forward, {stage.backwards / tried:.1f} backward passes"
        )
    console.print("saved " + ", ".join(str(path) for path in files), soft_wrap=True, markup=False)


def _say(lines: list[str], quiet: bool) -> None:
    for line in lines:
        if not quiet and not line.startswith("data:"):
            Console(stderr=True).print(f"assuming {line}", style="dim", highlight=False, markup=False)
