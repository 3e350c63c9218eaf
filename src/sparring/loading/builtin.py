"""The models that need no file from the user: a plain table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from sparring.errors import InputError, unknown
from sparring.loading import digits_cnn, imagenet_lite
from sparring.loading.builtin_data import DIGIT_NAMES
from sparring.loading.imagenet_names import imagenet_names
from sparring.loading.names import MODELS


@dataclass(frozen=True)
class Builtin:
    """How to build a model (`network`, random weights) and where its `weights` come from.

    shape: (C, H, W) of its images; names: its class names, asked for late.
    """

    network: Callable[[], nn.Module]
    weights: Callable[[], dict[str, Tensor]]
    shape: tuple[int, int, int]
    names: Callable[[], tuple[str, ...]]
    summary: str


@dataclass(frozen=True)
class ModelInfo:
    """What to know of a built-in model: image shape (C, H, W), a fitting data set, class names, one line of text."""

    name: str
    shape: tuple[int, int, int]
    data: str
    class_names: tuple[str, ...]
    summary: str


def _imagenet_lite(number: int) -> Builtin:
    side = imagenet_lite.SIDES[number]
    return Builtin(
        partial(imagenet_lite.imagenet_lite, number),
        partial(imagenet_lite.imagenet_lite_weights, number),
        (3, side, side),
        imagenet_names,
        f"EfficientNet-Lite{number}, 1000 ImageNet classes, {side} x {side} colour",
    )


BUILTIN: dict[str, Builtin] = {
    "digits-cnn": Builtin(
        digits_cnn.digits_cnn,
        digits_cnn.digits_cnn_weights,
        digits_cnn.SHAPE,
        lambda: DIGIT_NAMES,
        "small convolutional network for scikit-learn's digits, 8 x 8 grey, trained on first use",
    ),
    "imagenet-lite0": _imagenet_lite(0),
    "imagenet-lite1": _imagenet_lite(1),
    "imagenet-lite2": _imagenet_lite(2),
}


def model_info(name: str) -> ModelInfo:
    """What to know of a built-in model. Raises `InputError` for an unknown name, `MissingExtraError` for names.

    >>> model_info("digits-cnn").shape
    (1, 8, 8)
    """
    if name not in BUILTIN:
        raise InputError(unknown("built-in model", name, list(BUILTIN)))
    builtin = BUILTIN[name]
    return ModelInfo(name, builtin.shape, MODELS[name], builtin.names(), builtin.summary)
