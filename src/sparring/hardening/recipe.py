"""How to train: everything but model, data, threat, method and seed; and the presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparring.errors import InputError, UnsupportedError, unknown
from sparring.hardening.augment import AUGMENTATIONS
from sparring.hardening.craft import check_positive
from sparring.hardening.method import Method, UserLoss
from sparring.hardening.methods import METHODS
from sparring.hardening.spec import parse_method
from sparring.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training run.

    epochs: as many weight updates as so many passes over the data take, whatever the method. batch_size: points per
    step, over all processes. Both are None for what suits the number of training images, see `sized`. optimizer:
    "adam" or "sgd" (momentum 0.9, Nesterov). lr: the peak of the rate, None for 0.003 (adam) or 0.1 (sgd); it rises
    over the share `rise` of the steps and then falls to 0 in a straight line (Wong et al. 2020). weight_decay:
    decoupled for adam. accumulate: pieces a step is computed in, to save memory.

    validation: how many images, or which share, are kept from training for the watch and the choice of the best epoch.
    watch: how many of these the watch attacks every epoch; None for at most 500. recover: after a collapse go back to
    the best state and change what caused it; False only reports it. patience: stop after so many epochs without a
    better robust accuracy.

    ema: decay of the averaged weights, which are those that are returned (0.995; 0 for none). label_smoothing.
    eps_warmup: share of the steps over which eps grows to its full size; without it many a net never learns anything
    against a large budget. augment: any of "crop", "flip", "cutout".
    awp: size of the adversarial weight perturbation (0.005), after the share `awp_warmup` of the steps. grad_align:
    its weight (0.2). hat: weight of the helper examples (0.5). loss: your own function of logits and labels.

    freeze: patterns of parameter names that stay as they are, ("features.*",). amp: bfloat16 on a GPU. channels_last:
    None to find out whether the model takes it.
    """

    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str = "adam"
    lr: float | None = None
    rise: float = 0.2
    weight_decay: float = 0.0
    accumulate: int = 1
    validation: float = 0.1
    watch: int | None = None
    recover: bool = True
    patience: int | None = None
    ema: float = 0.995
    label_smoothing: float = 0.0
    eps_warmup: float = 0.3
    augment: tuple[str, ...] = ()
    awp: float = 0.0
    awp_warmup: float = 0.2
    grad_align: float = 0.0
    hat: float = 0.0
    loss: UserLoss | None = None
    freeze: tuple[str, ...] = ()
    amp: bool = False
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        _check_whole("accumulate", self.accumulate)
        for name in ("epochs", "batch_size", "watch", "patience"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name))
        for name in ("weight_decay", "awp", "grad_align", "hat"):
            check_positive(name, getattr(self, name), zero=True)
        check_positive("validation", self.validation)
        for name in ("rise", "ema", "label_smoothing", "eps_warmup", "awp_warmup"):
            check_positive(name, getattr(self, name), zero=True)
            if getattr(self, name) >= 1:
                raise InputError(f"{name} must be a share below 1, got {getattr(self, name)!r}")
        if self.lr is not None:
            check_positive("lr", self.lr)
        if self.optimizer not in LEARNING_RATES:
            raise InputError(unknown("optimizer", self.optimizer, list(LEARNING_RATES)))
        for name in ("augment", "freeze"):
            given = getattr(self, name)
            texts = (given,) if isinstance(given, str) else tuple(given)
            object.__setattr__(self, name, texts)
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise InputError(unknown("augmentation", name, list(AUGMENTATIONS)))
        if self.loss is not None and not callable(self.loss):
            raise InputError(f"loss must be a function of logits and labels, got {self.loss!r}")
        if self.loss is not None and self.label_smoothing:
            raise InputError(
                "label_smoothing belongs to cross-entropy: smooth the labels in your own loss, or leave it"
            )

    def sized(self, method: Method, images: int) -> Recipe:
        """With `epochs` and `batch_size` for so many training images, where they were left open.

        Small sets get smaller batches and more epochs, so that no net has less than about `UPDATES` updates to learn
        in: steps of 128 are few in an epoch of some thousand images.
        """
        batch = min(128, max(32, images // 72)) if self.batch_size is None else self.batch_size
        per_step = max(1, batch // method.copies)
        epochs = min(max(method.epochs, -(-UPDATES * per_step // images)), MOST) if self.epochs is None else self.epochs
        return dataclasses.replace(self, epochs=epochs, batch_size=batch)

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return LEARNING_RATES[self.optimizer] if self.lr is None else self.lr

    def rate(self, progress: float) -> float:
        """The learning rate after the share `progress` of all steps."""
        share = progress / self.rise if progress < self.rise else (1 - progress) / (1 - self.rise)
        return self.peak * max(share, 1e-3)

    def budget(self, eps: float, progress: float) -> float:
        """The budget after the share `progress` of all steps."""
        return eps if progress >= self.eps_warmup else eps * max(progress / self.eps_warmup, 0.05)

    def told(self) -> dict[str, Any]:
        """The fields as JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own = self.loss
        values["loss"] = None if own is None else getattr(own, "__qualname__", type(own).__qualname__)
        return values


UPDATES = 2000
"""Weight updates that a run should have, unless its epochs are named ..."""
MOST = 100
"""... but no more epochs than these."""
LEARNING_RATES = {"adam": 0.003, "sgd": 0.1}
"""Optimizer to the peak of its rate."""

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "fast": ("free", {}),
    "pgd": ("pgd", {}),
    "trades": ("trades", {}),
    "certified": ("certified", {"eps_warmup": 0.6, "ema": 0.0, "recover": False}),
}
"""Name to method and the settings that differ from `Recipe`'s; a method's own parameters may follow the name."""


def chosen(method: str | Method, changes: Mapping[str, Any]) -> tuple[Method, Recipe]:
    """Method and recipe of a preset's or a method's name, with `changes` to the recipe.

    Raises `InputError` for a method, field or value that does not exist.
    """
    settings: dict[str, Any] = {}
    if isinstance(method, str):
        name, _, parameters = method.partition(":")
        if name in PRESETS:
            base, settings = PRESETS[name]
            method = f"{base}:{parameters}" if parameters else base
        elif name not in METHODS:
            raise InputError(unknown("method", name, [*PRESETS, *METHODS]))
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in known:
            raise InputError(unknown("setting", name, known))
    return parse_method(method), Recipe(**{**settings, **changes})


def check_together(method: Method, recipe: Recipe, threat: ThreatModel, model: nn.Module, device_type: str) -> None:
    """Raise `UnsupportedError` for combinations that do not exist."""
    method.check(threat)
    if method.repeats > 1 and (recipe.accumulate > 1 or recipe.awp):
        raise UnsupportedError("a method that repeats its batches goes with neither accumulate nor awp")
    if recipe.grad_align and threat.norm != "linf":
        raise UnsupportedError(f"GradAlign is for linf, not for {threat.norm}: leave grad_align out")
    if method.own_loss and (recipe.loss is not None or recipe.label_smoothing):
        raise UnsupportedError(f"{type(method).__name__} has a loss of its own: leave out loss and label_smoothing")
    if recipe.amp and device_type == "cpu":
        raise UnsupportedError("amp is for a GPU; on the CPU it is slower and less exact: leave it out")
    if recipe.batch_size is not None and recipe.batch_size < method.copies * recipe.accumulate:
        raise InputError(f"batch_size={recipe.batch_size} leaves no image per piece: raise it")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("nothing to train: every parameter is frozen; narrow the patterns in freeze")


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
