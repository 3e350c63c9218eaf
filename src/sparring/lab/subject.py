"""The models of the page: built-in ones and the declared one, each loaded when first asked for, with its pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from sparring.batching import Plan, plan
from sparring.defenses.detectors import Fitted
from sparring.errors import DataError, InputError, MissingExtraError, unknown
from sparring.loading import Config, declared_data, declared_model, load_data, load_image, load_model, model_info
from sparring.loading.data import Images
from sparring.loading.names import MODELS
from sparring.loading.photos import PHOTOS

DECLARED = "declared"
EXAMPLES = 12
FRAGILE, PHOTO = "digit 5", "chelsea"
"""The examples to begin with: most of the digits stand at every epsilon of the slider."""
CALIBRATION = 200
"""Clean images that a detector is fitted on, at most."""


@dataclass(frozen=True)
class Example:
    """A picture (1, C, H, W) that comes with a model, and its class where that is known."""

    name: str
    open: Callable[[], Tensor]
    truth: int | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with everything the page knows of it. `shape`: (C, H, W) of its images."""

    name: str
    model: nn.Module
    shape: tuple[int, int, int]
    names: tuple[str, ...] | None
    examples: tuple[Example, ...]
    clean: Callable[[], Tensor] = field(repr=False)
    """Clean images for detectors, (N, C, H, W)."""
    clean_are: str = ""
    opening: str = ""
    """The example to begin with; empty: the first."""
    hardened: Callable[[], nn.Module] | None = field(default=None, repr=False)
    """Loads, or trains, its hardened version; None where there is none."""
    fitted: dict[str, Fitted] = field(default_factory=dict, repr=False)
    """Detectors that were fitted to it."""
    fellows: dict[str, Subject] = field(default_factory=dict, repr=False)
    """Other versions of it that were loaded."""

    @cached_property
    def plan(self) -> Plan:
        """How the model likes to be called."""
        return plan(self.model, torch.zeros(1, *self.shape))

    @property
    def size(self) -> int:
        """Numbers in an image."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def first(self) -> str:
        """Name of the example to begin with."""
        return self.opening or self.examples[0].name

    def example(self, name: str) -> Example:
        """By its name. Raises `InputError` with the known names."""
        for example in self.examples:
            if example.name == name:
                return example
        raise InputError(unknown("example", name, [example.name for example in self.examples]))


def frozen(model: nn.Module) -> nn.Module:
    """In evaluation mode and without parameter gradients for good: several threads ask it at once."""
    return model.eval().requires_grad_(False)


@dataclass(eq=False)
class Shelf:
    """The subjects by name. `config` may declare a model, `hardened` builds that one's hardened version."""

    config: Config = field(default_factory=Config)
    hardened: Callable[[], nn.Module] | None = None
    _loaded: dict[str, Subject] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def names(self) -> tuple[str, ...]:
        """The declared model first, if it is none of the built-in ones."""
        spec = None if self.config.model is None else self.config.model.spec
        return tuple(MODELS) if spec is None or spec in MODELS else (DECLARED, *MODELS)

    @property
    def first(self) -> str:
        """The model that the page opens with."""
        spec = None if self.config.model is None else self.config.model.spec
        return spec if spec in MODELS else self.names[0]

    def __getitem__(self, name: str) -> Subject:
        if name not in self.names:
            raise InputError(unknown("model", name, list(self.names)))
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = _declared(self.config, self.hardened) if name == DECLARED else _built_in(name)
            return self._loaded[name]


def _built_in(name: str) -> Subject:
    from sparring.lab.hardened import hardened_digits

    info, model = model_info(name), frozen(load_model(name))
    if MODELS[name] == "digits":
        images, labels = load_data("digits", n=EXAMPLES)
        digits = tuple(
            Example(f"digit {int(label)}" + ("" if i < 10 else " again"), partial(_row, images, i), int(label))
            for i, label in enumerate(labels)
        )
        about = f"{CALIBRATION} training digits"
        better = partial(hardened_digits, model)
        return Subject(name, model, info.shape, info.class_names, digits, _training_digits, about, FRAGILE, better)
    side = info.shape[1]
    photos = tuple(Example(photo, partial(load_image, photo, side), PHOTOS[photo].label) for photo in PHOTOS)
    about = "4 corners of each packaged photograph: a demonstration, too few and too alike for a rate to rely on"
    return Subject(name, model, info.shape, info.class_names, photos, partial(_crops, side), about, PHOTO)


def _crops(side: int) -> Tensor:
    """The four corners of every packaged photograph, as images of their own."""
    found = []
    for name in PHOTOS:
        try:
            large = load_image(name, size=2 * side - side // 2)
        except (DataError, MissingExtraError):
            continue
        edge = large.shape[-1] - side
        found += [large[..., a : a + side, b : b + side] for a in (0, edge) for b in (0, edge)]
    return torch.cat(found)


def _declared(config: Config, hardened: Callable[[], nn.Module] | None) -> Subject:
    if config.data is None:
        raise InputError("the declared model needs pictures to start from: add [data] to sparring.toml or give --data")
    data = declared_data(config)
    if data.images[0:1].dim() != 4:
        raise InputError(f"the lab shows pictures (C, H, W); the data has shape {tuple(data.images.shape[1:])}")
    shown = _names(data.files, min(EXAMPLES, len(data.labels)))
    examples = tuple(Example(name, partial(_row, data.images, i), int(data.labels[i])) for i, name in enumerate(shown))
    channels, height, width = data.images.shape[1:]
    return Subject(
        DECLARED,
        frozen(declared_model(config)),
        (channels, height, width),
        data.class_names,
        examples,
        partial(_rows, data.images, CALIBRATION),
        f"the first {min(CALIBRATION, len(data.labels))} declared images, the shown ones among them",
        hardened=hardened,
    )


def _row(images: Images, i: int) -> Tensor:
    return images[i : i + 1]


def _rows(images: Images, count: int) -> Tensor:
    return images[0:count]


def _training_digits() -> Tensor:
    return _rows(load_data("digits", split="train").images, CALIBRATION)


def _names(files: Sequence[str] | None, count: int) -> list[str]:
    return [f"{i}: {files[i]}" if files is not None else f"image {i}" for i in range(count)]
