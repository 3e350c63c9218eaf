"""Flags that several commands share, and how they meet `sparring.toml`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sparring.errors import ConfigError
from sparring.loading import BUILTIN, Config, load_config, merge

DEFAULT_CONFIG = Path("sparring.toml")
DEFAULT_EPS = {"linf": "8/255", "l2": 0.5, "l1": 12, "l0": 10}
"""Budgets of the literature for colour pictures; the screen says when one of them was taken."""

ConfigFlag = Annotated[
    Path | None, typer.Option("--config", "-c", help="Declaration file; ./sparring.toml is read if it is there.")
]
ModelFlag = Annotated[
    str | None,
    typer.Option("--model", "-m", help="digits-cnn, imagenet-lite0..2, package.module:factory or file.py:factory."),
]
WeightsFlag = Annotated[Path | None, typer.Option(help=".safetensors, or a checkpoint of plain tensors (state_dict).")]
MeanFlag = Annotated[str | None, typer.Option(help="Normalisation inside the model: 0.5 or 0.485,0.456,0.406.")]
StdFlag = Annotated[str | None, typer.Option(help="Normalisation inside the model: 0.5 or 0.229,0.224,0.225.")]
OutputsFlag = Annotated[
    str | None, typer.Option(help="What the model returns: logits, probabilities, one-logit, one-probability.")
]
DataFlag = Annotated[
    str | None,
    typer.Option("--data", "-d", help="digits, mnist5k, fashion-mnist, photos, a folder, .npz or idx file."),
]
SizeFlag = Annotated[str | None, typer.Option(help="Resize pictures: 224 or 224,160 (height,width).")]
NumberFlag = Annotated[int | None, typer.Option("-n", "--n", help="How many images, class-balanced; default all.")]
NormFlag = Annotated[str | None, typer.Option(help="linf, l2, l1 or l0.")]
EpsFlag = Annotated[str | None, typer.Option("--eps", "-e", help='Budget in units of the images: 0.1 or "8/255".')]
SeedFlag = Annotated[int | None, typer.Option(help="Seed of every random draw.")]
BatchFlag = Annotated[int | None, typer.Option(help="Images per call of the model; default: chosen from the model.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]


@dataclass(frozen=True)
class Declared:
    """The merged declaration and where it came from."""

    config: Config
    path: Path | None


def declared(path: Path | None, **flags: Any) -> Declared:
    """`sparring.toml` (the named one, or the one here if any) with the flags laid over it."""
    found = path if path is not None else (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    config = load_config(found) if found is not None else Config()
    return Declared(merge(config, **_completed(config, flags)), found)


def _completed(config: Config, flags: dict[str, Any]) -> dict[str, Any]:
    """A flag that only refines (--n, --norm) must not ask for the rest of its table: fill in the usual values."""
    flags = dict(flags)
    spec = flags.get("model") or (config.model.spec if config.model is not None else None)
    refines_data = any(flags.get(name) is not None for name in ("n", "size"))
    if config.data is None and flags.get("data") is None and refines_data and spec in BUILTIN:
        flags["data"] = BUILTIN[spec].data
    if config.threat is None and flags.get("eps") is None and flags.get("norm") in DEFAULT_EPS:
        flags["eps"] = DEFAULT_EPS[flags["norm"]]
    return flags


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
