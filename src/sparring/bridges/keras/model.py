"""A Keras model as ours: the backend's gradients, logits in front of a softmax, channels where it wants them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sparring.bridges.jax import JaxModel, from_jax
from sparring.bridges.keras.archive import checked
from sparring.bridges.tensorflow import from_tensorflow
from sparring.errors import DataError, InputError, MissingExtraError, ModelError
from sparring.loading.reason import reason

CHANNELS = (1, 3)


class KerasModel(nn.Module):
    """What `from_keras` returns: images (N, C, H, W) to logits (N, K), by the Keras model's own backend."""

    attacked_only = True

    def __init__(self, model: Any, layout: str | None) -> None:
        super().__init__()
        keras = _library()
        self.layout = layout or _layout(model, keras)
        self.backend = str(keras.config.backend())
        self._end = _softmax(model, keras)
        self._said = "" if self._end is None else (
            f"the Keras model ends in softmax ({self._end.name}): it is left out, logits are attacked"
        )  # fmt: skip
        self._model, self._takes = model, tuple(getattr(model, "input_shape", None) or ())
        self.inner: nn.Module = _differentiable(model, self.backend, self.layout)

    def remarks(self) -> tuple[str, ...]:
        """What was left out at its end."""
        return (self._said,) if self._said else ()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        self._check_shape(images)
        with _open_ended(self._end, _library()):
            if isinstance(self.inner, JaxModel):
                self.inner.parameters_of_jax = _values(self._model)  # as they are now
            if self.backend != "torch":
                return self.inner(images)  # type: ignore[no-any-return]
            turned = images.permute(0, 2, 3, 1) if self.layout == "NHWC" and images.dim() == 4 else images
            return self.inner(turned, training=False)  # type: ignore[no-any-return]

    def _check_shape(self, images: Tensor) -> None:
        """Keras says at length what does not fit, of images whose axes were turned."""
        if len(self._takes) != 4 or images.dim() != 4:
            return
        wanted = self._takes[1:] if self.layout == "NCHW" else (self._takes[3], self._takes[1], self._takes[2])
        given = tuple(images.shape[1:])
        if all(w in (None, g) for w, g in zip(wanted, given, strict=True)):
            return
        turned = tuple(images.shape[i] for i in (3, 1, 2))
        last = all(w in (None, g) for w, g in zip(wanted, turned, strict=True))
        way = "turn them, images.permute(0, 3, 1, 2)" if last else "load them so, size=..., channels=..."
        raise ModelError(f"the Keras model takes images with (C, H, W) = {wanted}, got {given}: {way}")


def from_keras(model: Any, *, layout: str | None = None) -> KerasModel:
    """A Keras 3 model as a model of ours. It is used as it is, not copied; its softmax is left out while we call it.

    layout: "NHWC" or "NCHW"; None reads it from the model's input shape. Gradients are those of Keras's backend
    (torch, tensorflow or jax). Raises `InputError` for what is no Keras model, `MissingExtraError` without Keras.
    """
    keras = _library()
    if not isinstance(model, keras.Model):
        raise InputError(f"model must be a keras.Model, got {type(model).__name__}; tf.keras 2 models: from_tensorflow")
    if not model.built:
        raise InputError(
            "the Keras model has no weights yet: call it once, or build it, model.build((None, 32, 32, 3))"
        )
    return KerasModel(model, layout)


def open_keras(path: str | Path) -> KerasModel:
    """The model of a .keras file, read in Keras's safe mode after a look of our own.

    Lambda layers, classes from outside of Keras, functions by name, members beside the model and weights that lead to
    other files are refused with a `DataError`. Keras runs on the backend it was told (KERAS_BACKEND); if nothing was
    said, on torch.
    """
    path = Path(path)
    checked(path)
    keras = _library()
    try:
        model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    except Exception as error:  # whatever a configuration makes Keras raise
        raise DataError(f"{path} cannot be read by Keras {keras.__version__}: {reason(error)}") from error
    return from_keras(model)


@cache
def _library() -> ModuleType:
    """Keras, on the backend it was told; where its default, TensorFlow, is not installed, on torch."""
    if find_spec("keras") is None:
        raise MissingExtraError("a Keras model", "keras")
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ and find_spec(_configured()) is None:
        os.environ["KERAS_BACKEND"] = "torch"
    try:
        import keras
    except ImportError as error:
        said = os.environ.get("KERAS_BACKEND", _configured())
        raise InputError(
            f"Keras cannot start on {said!r} ({reason(error)}): install it, or KERAS_BACKEND=torch"
        ) from error
    return keras  # type: ignore[no-any-return]


def _configured() -> str:
    """The backend in Keras's own file, which it writes itself when it is first imported."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return str(json.loads((home / "keras.json").read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def _differentiable(model: Any, backend: str, layout: str) -> nn.Module:
    if backend == "torch":
        return model  # type: ignore[no-any-return]  # a module of torch already
    if backend == "tensorflow":
        return from_tensorflow(lambda images: model(images, training=False), layout=layout)
    if backend == "jax":
        run = partial(_stateless, model)
        return from_jax(run, _values(model), layout=layout)
    raise InputError(
        f"Keras runs on {backend!r}, which has no gradients: set KERAS_BACKEND to torch, jax or tensorflow"
    )


def _stateless(model: Any, values: tuple[list[Any], list[Any]], images: Any) -> Any:
    return model.stateless_call(*values, images, training=False)[0]


def _values(model: Any) -> tuple[list[Any], list[Any]]:
    """The weights as JAX arrays."""
    trained, other = model.trainable_variables, model.non_trainable_variables
    return [variable.value for variable in trained], [variable.value for variable in other]


def _layout(model: Any, keras: ModuleType) -> str:
    """Where the channels stand, from the shape of the input: (None, H, W, 3) or (None, 3, H, W)."""
    shape = tuple(getattr(model, "input_shape", ()) or ())
    if len(shape) == 4 and (shape[3] in CHANNELS) != (shape[1] in CHANNELS):
        return "NHWC" if shape[3] in CHANNELS else "NCHW"
    return "NHWC" if keras.config.image_data_format() == "channels_last" else "NCHW"


def _softmax(model: Any, keras: ModuleType) -> Any:
    """The layer whose activation is a softmax over classes and whose output is the model's; None if there is none."""
    found = model
    while isinstance(found, keras.Model):
        outputs = getattr(found, "outputs", None)
        if not outputs or len(outputs) != 1 or not hasattr(outputs[0], "_keras_history"):
            return None
        found = found.layers[-1] if isinstance(found, keras.Sequential) else outputs[0]._keras_history.operation
    if isinstance(found, keras.layers.Softmax):
        return found
    return found if getattr(found, "activation", None) is keras.activations.softmax else None


@contextmanager
def _open_ended(layer: Any, keras: ModuleType) -> Iterator[None]:
    """The last layer without its softmax, while the block runs."""
    if layer is None:
        yield
        return
    separate = isinstance(layer, keras.layers.Softmax)
    name, instead = ("call", _as_is) if separate else ("activation", keras.activations.linear)
    own, before = name in vars(layer), getattr(layer, name)
    object.__setattr__(layer, name, instead)
    try:
        yield
    finally:
        if own:
            object.__setattr__(layer, name, before)
        else:
            object.__delattr__(layer, name)


def _as_is(inputs: Any, mask: Any = None) -> Any:
    return inputs
