"""Flags that several commands share, and how they meet `sparring.toml`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from sparring.budget import NORMS
from sparring.errors import ConfigError, InputError
from sparring.loading.names import DATA_SETS, MODELS

if TYPE_CHECKING:
    from sparring.loading import Config

DEFAULT_CONFIG = Path("sparring.toml")
DEFAULT_EPS = {"linf": "8/255", "l2": 0.5, "l1": 12, "l0": 10}
"""Budgets of the literature for colour pictures; the screen says when one of them was taken."""
EFFORTS = ("quick", "standard", "thorough", "autoattack")
REPORT_FORMS = (".html", ".json")
TARGET_RULES = ("least-likely", "runner-up", "random")
OUTPUTS = ("logits", "probabilities", "one-logit", "one-probability")
"""Names that the shell completes; a test keeps them equal to what the library knows."""


def completing(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What the shell offers for a flag: the names that begin as typed."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


ConfigFlag = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Declaration, --config ci/sparring.toml; ./sparring.toml is read if there."),
]
ModelFlag = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Import path or file of what builds it, --model mypackage.nets:small or --model nets.py:small; "
        "or built in: digits-cnn, imagenet-lite0, imagenet-lite1, imagenet-lite2.",
        autocompletion=completing(MODELS),
    ),
]
WeightsFlag = Annotated[
    Path | None,
    typer.Option(help="Its weights, --weights net.safetensors; or a checkpoint of plain tensors (a state_dict)."),
]
MeanFlag = Annotated[
    str | None,
    typer.Option(help="Subtracted inside the model, --mean 0.5 or per channel --mean 0.485,0.456,0.406."),
]
StdFlag = Annotated[
    str | None,
    typer.Option(help="Divided by inside the model, --std 0.5 or per channel --std 0.229,0.224,0.225."),
]
OutputsFlag = Annotated[
    str | None,
    typer.Option(
        help="What the model returns, --outputs probabilities; logits (default), probabilities, one-logit or "
        "one-probability.",
        autocompletion=completing(OUTPUTS),
    ),
]
IndexFlag = Annotated[
    str | None,
    typer.Option(
        "--output-index",
        help="Which element of the tuple or mapping the model returns, --output-index 0 or --output-index logits.",
    ),
]
DeviceFlag = Annotated[
    str | None, typer.Option(help="Where the model runs, --device cuda or --device cuda:1; default: cpu.")
]
DataFlag = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        help="A folder of class folders, --data ./pictures; an .npz or idx file; or built in: digits, mnist5k, "
        "fashion-mnist, photos.",
        autocompletion=completing(DATA_SETS),
    ),
]
SizeFlag = Annotated[str | None, typer.Option(help="Resize pictures, --size 224 or height,width as in --size 224,160.")]
ChannelsFlag = Annotated[
    int | None,
    typer.Option(help="What the model wants, --channels 1 for grey, --channels 3 for colour; default: as stored."),
]
NumberFlag = Annotated[
    int | None, typer.Option("-n", "--n", help="How many images, --n 500, class-balanced; default: all.")
]
NormFlag = Annotated[
    str | None,
    typer.Option(help="How a change is measured, --norm l2; linf, l2, l1 or l0.", autocompletion=completing(NORMS)),
]
EpsFlag = Annotated[
    str | None,
    typer.Option("--eps", "-e", help="Budget in units of the images, which span 0 to 1: --eps 8/255 or --eps 0.1."),
]
SeedFlag = Annotated[int | None, typer.Option(help="Seed of every random draw, --seed 7; default 0.")]
BatchFlag = Annotated[
    int | None, typer.Option(help="Images per call of the model, --batch-size 64; default: chosen from the model.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]


_FIRST = {"model": ModelFlag, "data": DataFlag, "n": NumberFlag, "eps": EpsFlag, "norm": NormFlag}
_LAST = {
    "weights": WeightsFlag,
    "mean": MeanFlag,
    "std": StdFlag,
    "outputs": OutputsFlag,
    "output_index": IndexFlag,
    "device": DeviceFlag,
    "size": SizeFlag,
    "channels": ChannelsFlag,
    "seed": SeedFlag,
    "batch_size": BatchFlag,
    "config": ConfigFlag,
}


@dataclass(frozen=True)
class Flags:
    """What the flags that speak of model, data and threat said (None: nothing), and the declaration they go over."""

    values: dict[str, Any]
    config: Path | None

    def declared(self, **more: Any) -> Declared:
        """The declaration under these flags and `more`."""
        return declared(self.config, **self.values, **more)

    def without(self, *names: str) -> Flags:
        """The same with those flags unsaid."""
        return Flags({name: value for name, value in self.values.items() if name not in names}, self.config)


def with_subject(*, but: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags that say model, data and threat, which it gets as `flags`, `but` those; one of its own
    by the same name takes the place of a shared one.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(command).parameters
        own = {name: hint for name, hint in get_type_hints(command, include_extras=True).items() if name in parameters}
        own.pop("flags")
        first, last = ({k: v for k, v in part.items() if k not in own and k not in but} for part in (_FIRST, _LAST))
        everything = first | own | last

        @wraps(command)
        def run(**given: Any) -> None:
            said = {name: given.pop(name) for name in first | last}
            config = said.pop("config", None)
            command(flags=Flags(_read(said), config), **given)

        defaults = {name: parameters[name].default if name in own else None for name in everything}
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint)
            for name, hint in everything.items()
        ]
        run.__annotations__, run.__dict__["__signature__"] = everything, inspect.Signature(shown)
        return run

    return decorate


def _read(said: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Callable[[Any], Any]] = {
        "mean": lambda text: numbers(text, "--mean"),
        "std": lambda text: numbers(text, "--std"),
        "output_index": index,
        "size": lambda text: whole_numbers(text, "--size"),
    }
    return {name: read[name](value) if name in read else value for name, value in said.items()}


@dataclass(frozen=True)
class Declared:
    """The merged declaration and where it came from."""

    config: Config
    path: Path | None


def declared(path: Path | None, **flags: Any) -> Declared:
    """`sparring.toml` (the named one, or the one here if any) with the flags laid over it."""
    from sparring.loading import Config, load_config, merge

    found = path if path is not None else (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    config = load_config(found) if found is not None else Config()
    return Declared(merge(config, **completed(config, flags)), found)


def completed(config: Config, flags: dict[str, Any]) -> dict[str, Any]:
    """A flag that only refines (--n, --norm) must not ask for the rest of its table: fill in the usual values."""
    flags = dict(flags)
    spec = flags.get("model") or (config.model.spec if config.model is not None else None)
    refines_data = any(flags.get(name) is not None for name in ("n", "size", "channels"))
    if config.data is None and flags.get("data") is None and refines_data and spec in MODELS:
        flags["data"] = MODELS[spec]
    if config.threat is None and flags.get("eps") is None and flags.get("norm") in DEFAULT_EPS:
        flags["eps"] = DEFAULT_EPS[flags["norm"]]
    return flags


def check_reports(paths: Iterable[Path], forms: Sequence[str] = REPORT_FORMS) -> None:
    """Before the work: every file that is to be written has one of these forms and can be. Raises `ConfigError`."""
    from sparring.files import check_writable

    for path in paths:
        if path.suffix.lower() not in forms:
            raise ConfigError(f"report path must end in {' or '.join(forms)}, got {str(path)!r}")
        try:
            check_writable(path)
        except InputError as error:
            raise ConfigError(str(error)) from error


def index(text: str | None) -> int | str | None:
    """0 or "logits"."""
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else text


def numbers(text: str | None, flag: str) -> float | tuple[float, ...] | None:
    """0.5 or 0.485,0.456,0.406. Raises `ConfigError` naming the flag."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{flag} takes one number or several with commas between, got {text!r}") from None
    return values[0] if len(values) == 1 else values


def whole_numbers(text: str | None, flag: str) -> int | tuple[int, ...] | None:
    """224 or 224,160. Raises `ConfigError` naming the flag."""
    values = numbers(text, flag)
    if values is None:
        return None
    parts = values if isinstance(values, tuple) else (values,)
    if any(not math.isfinite(part) or part != int(part) for part in parts):
        raise ConfigError(f"{flag} takes whole numbers, got {text!r}")
    return int(parts[0]) if len(parts) == 1 else tuple(int(part) for part in parts)
