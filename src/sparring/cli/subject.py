"""From flags and `sparring.toml` to what an attack or an audit works on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.cli.options import DEFAULT_EPS, TARGET_RULES
from sparring.errors import ConfigError, InputError, SparringError, unknown
from sparring.loading.names import MODELS

if TYPE_CHECKING:
    from sparring.attacks import Attack
    from sparring.loading import Config, Dataset, ModelInfo
    from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Subject:
    """The model under attack, its data, the threat, and the names to speak of them."""

    config: Config
    model: Any
    data: Dataset
    threat: ThreatModel
    model_name: str
    class_names: tuple[str, ...] | None


def with_defaults(config: Config) -> tuple[Config, list[str]]:
    """Fill in what a built-in model knows and the usual budget; returns what was assumed, to be shown."""
    from sparring.loading import merge
    from sparring.loading.config import present

    assumed = []
    spec = present(config.model, "model").spec
    if spec in MODELS and config.data is None:
        config = merge(config, data=MODELS[spec])
        assumed.append(f"data: {MODELS[spec]} (fits {spec})")
    if spec in MODELS and config.data is not None and config.data.source == "photos" and config.data.size is None:
        info = builtin_info(config)
        config = merge(config, size=None if info is None else info.shape[1])
    if config.threat is None:
        config = merge(config, norm="linf", eps=DEFAULT_EPS["linf"])
        assumed.append(f"threat: linf eps {DEFAULT_EPS['linf']} (no --eps given)")
    return config, assumed


def other_models(config: Config, texts: Iterable[str], taken: Iterable[str] = ()) -> dict[str, Any]:
    """Models beside the declared one, each "SPEC" or "SPEC@weights.safetensors", by names other than those `taken`."""
    from sparring.loading import declared_model, merge

    found: dict[str, Any] = {}
    for text in texts:
        spec, _, weights = text.partition("@")
        bare = config.model_copy(update={"model": config.model and config.model.model_copy(update={"weights": None})})
        known = (*taken, *found)
        name = text if text not in known else f"{text} ({len(known) + 1})"
        found[name] = declared_model(merge(bare, model=spec, weights=weights or None))
    return found


def builtin_info(config: Config) -> ModelInfo | None:
    """What is known of the declared model if it is a built-in one."""
    if config.model is None or config.model.spec not in MODELS:
        return None
    from sparring.loading import model_info

    return model_info(config.model.spec)


def attacks(texts: Iterable[str]) -> list[Attack]:
    """Attacks from their text forms. One of your own is imported by name, `my_attack:Mine:steps=3`, or from its file,
    `my_attack.py:Mine:steps=3`; the current folder can be imported from meanwhile, as with `python -m`.
    """
    return [_attack(text) for text in texts]


def _attack(text: str) -> Attack:
    from sparring.attacks import ATTACKS, parse
    from sparring.loading.factories import importable

    place, _, rest = text.strip().partition(":")
    if place in ATTACKS:
        return parse(text)
    folders = [Path.cwd()]
    if place.endswith(".py"):
        file = Path(place).expanduser()
        if not file.is_file():
            raise InputError(f"attack {text!r}: the file {file} does not exist (the current folder is {Path.cwd()})")
        if not rest:
            raise InputError(f"attack {text!r} names a file but nothing in it: write {text + ':ClassName'!r}")
        folders, text = [file.parent], f"{file.stem}:{rest}"
    try:
        with importable(*folders):
            return parse(text)
    except SparringError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InputError(f"attack {text!r}: importing it raised {type(error).__name__}: {error}") from error


def told(model: Any) -> Any:
    """`model`, once what its bridges have to say was said: also in quiet runs, since it may be where requests go."""
    from sparring.bridges import remarks
    from sparring.cli import show

    show.remarks(remarks(model))
    return model


def load(config: Config) -> Subject:
    """Load everything the declaration names; what a bridge did to the model, or sends where, is shown."""
    from sparring.loading import declared_data, declared_model, declared_threat, merge

    model, data = declared_model(config), declared_data(config)
    told(model)
    info = builtin_info(config)
    if info is not None and data.class_names is not None and data.class_names != info.class_names:
        strangers = sorted(set(data.class_names) - set(info.class_names))
        if strangers:
            raise ConfigError(
                f"the data has classes that {info.name} does not know, such as {strangers[0]!r}: name the folders "
                "after the model's classes, or declare [data] classes in the model's order"
            )
        config = merge(config, classes=info.class_names)
        data = declared_data(config)
    names = data.class_names if info is None else info.class_names
    spec = "" if config.model is None else config.model.spec
    return Subject(config, model, data, declared_threat(config), spec, names)


def class_index(text: str | None, names: tuple[str, ...] | None, flag: str) -> int | None:
    """A class by name or, where no class is called that, by number. Raises `ConfigError` with the nearest names."""
    if text is None:
        return None
    if names is not None and text in names:
        return names.index(text)
    if text.isdecimal() and text.isascii():
        return int(text)
    if names is None:
        raise ConfigError(f"{flag} must be a class number here (the classes have no names), got {text!r}")
    raise ConfigError(unknown(f"class for {flag}", text, list(names))[:300])


def target_class(config: Config, flag: str | None, names: tuple[str, ...] | None) -> int | str | None:
    """What is to be reached: a class or a rule that chooses one for every image; the flag, else [threat] target."""
    if flag in TARGET_RULES:
        return flag
    wanted = class_index(flag, names, "--target")
    return config.threat.target if wanted is None and config.threat is not None else wanted


def targets(subject: Subject, wanted: int | str | None) -> Any:
    """One target per image (a tensor), or None for any wrong class."""
    from sparring.targets import choose_targets

    labels = subject.data.labels
    if wanted is None:
        return None
    if isinstance(wanted, int):
        return labels.new_full((len(labels),), wanted)
    audit, bounds = subject.config.audit, subject.threat.bounds
    return choose_targets(
        subject.model,
        subject.data.images,
        labels,
        wanted,
        seed=audit.seed,
        bounds=bounds,
        batch_size=audit.batch_size,
    )
