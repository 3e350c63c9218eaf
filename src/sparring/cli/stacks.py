"""From [stack] in `sparring.toml` to a stack around the loaded model: its detectors as fitted, or fitted now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.errors import ConfigError, InputError

if TYPE_CHECKING:
    from sparring.cli.subject import Subject
    from sparring.defenses import Stack
    from sparring.defenses.declared import Layers
    from sparring.loading import Config, Dataset

FOLDER = Path("sparring-stack")


def layers(config: Config) -> Layers:
    """What [stack] declares. Raises `ConfigError` without that table or for what it does not know."""
    from sparring.defenses.declared import Layers
    from sparring.loading.config import present

    try:
        return Layers.of(present(config.stack, "stack").model_dump())
    except InputError as error:
        raise ConfigError(f"[stack]: {error}") from error


def classifier(config: Config, model: Any) -> Any:
    """What is attacked: the declared transforms and the model behind them; without transforms, the model."""
    if config.stack is None or not config.stack.transforms:
        return model
    from sparring.defenses import Stack

    return Stack(model, layers(config).transforms).as_model()


def remarks(config: Config) -> list[str]:
    """What an attack or an audit says of a declared stack."""
    if config.stack is None:
        return []
    before = [str(entry["kind"]) for entry in config.stack.transforms]
    said = [f"the model behind its transforms is attacked: {' > '.join([*before, 'model'])}"] if before else []
    if config.stack.detectors:
        said.append("detectors do not count here: `sparring compare` judges the whole stack")
    return said


def folder(config: Config) -> Path:
    """Where the fitted detectors lie."""
    return config.stack.fitted if config.stack is not None and config.stack.fitted is not None else FOLDER


def calibration(config: Config) -> Dataset:
    """The clean images that detectors are fitted on: [stack] calibration, else the training split of [data]."""
    from sparring.loading import load_data
    from sparring.loading.config import present
    from sparring.loading.source import NoPartError

    table = present(config.data, "data")
    options: dict[str, Any] = {"size": table.size, "channels": table.channels, "classes": table.classes}
    if config.stack is not None and config.stack.calibration is not None:
        return load_data(config.stack.calibration, **options)
    try:
        return load_data(table.source, split="train", **options)
    except NoPartError as error:
        raise ConfigError(
            f"{error}; or name clean images that the model has not seen, --calibration ./held-out"
        ) from error


def fitted(subject: Subject, most: int | None, seed: int) -> tuple[Stack, float, Dataset]:
    """The declared stack with its detectors fitted on at most `most` images; the seconds that took; the images' set."""
    declared, data = layers(subject.config), calibration(subject.config)
    count = len(data.labels) if most is None else min(most, len(data.labels))
    images, labels = data.images[0:count], data.labels[:count]
    stack, seconds = declared.fitted(subject.model, images, labels, subject.threat, seed)
    return stack, seconds, data


def stored_or_fitted(subject: Subject, most: int | None, seed: int) -> tuple[Stack, float | None]:
    """The stack from its folder where it was fitted there as declared now, else fitted now (and the seconds)."""
    from sparring.defenses import load_stack

    declared, place = layers(subject.config), folder(subject.config)
    if (place / "stack.json").is_file():
        stack = load_stack(place, subject.model)
        one = subject.data.images[0:1]
        wanted = [(detector.suited(subject.model, one), fpr) for detector, fpr in declared.detectors]
        same = [(fitted.detector, fitted.fpr) for fitted in stack.detectors] == wanted
        if not same or tuple(stack.transforms) != declared.transforms or stack.policy != declared.policy:
            raise ConfigError(
                f"{place} holds a stack that was fitted for another declaration: run `sparring fit` again, or remove it"
            )
        return stack, None
    stack, seconds, _ = fitted(subject, most, seed)
    return stack, seconds
