"""Models by name, import path or as they are, ready to be attacked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sparring import bridges
from sparring.errors import InputError, unknown
from sparring.loading import factories
from sparring.loading.builtin import BUILTIN
from sparring.loading.paths import user_path
from sparring.loading.reason import reason
from sparring.loading.weights import load_weights, read_weights
from sparring.model import Normalised, OutputAdapter

_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx", ".keras")


def load_model(
    spec: str | nn.Module,
    *,
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    outputs: str = "logits",
    output_index: int | str | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A model in evaluation mode, from images (N, C, H, W) in [0, 1] to logits (N, classes).

    spec: a built-in name ("digits-cnn", "imagenet-lite0", "imagenet-lite1", "imagenet-lite2"), an import path
    "package.module:factory" or "path/to/file.py:factory" (an `nn.Module` class, a function without arguments, or a
    module; the current folder can be imported from), or an `nn.Module`, which is then set up in place; a Keras model;
    an .onnx or .keras file, the folder of a Hugging Face checkpoint, or an endpoint.toml for a model behind HTTP.
    Naming code runs it; files of weights and models never run anything. A timm model, or one named
    "torchvision.models:resnet50", gets the normalisation of its own configuration unless `mean` or `std` is given.

    weights: .safetensors, or a checkpoint of plain tensors; of the network or of the whole model as returned here.
    mean, std: subtracted and divided inside the model, one number or one per channel, in units of [0, 1]; if only
    one is given the other is mean 0 or std 1. outputs: "logits", "probabilities", "one-logit" or
    "one-probability"; output_index: which element of a tuple or mapping to take first.

    Raises `InputError` for a spec, weights or options that do not fit, `DataError` for a weights file that cannot
    be read or would have to be unpickled, `ModelError` for a factory that fails or gives something else, and
    `MissingExtraError` for a built-in model whose package is not installed.

    >>> load_model("digits-cnn")(torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 10])
    """
    model = _network(spec, weights, normalised=mean is not None or std is not None)
    if mean is not None or std is not None:
        model = Normalised(model, 0.0 if mean is None else mean, 1.0 if std is None else std)
    if outputs != "logits" or output_index is not None:
        model = OutputAdapter(model, outputs, output_index)
    if weights is not None:
        load_weights(model, read_weights(user_path(weights)), weights)
    return _on_device(model, device).eval()


def _network(spec: str | nn.Module, weights: str | Path | None, normalised: bool) -> nn.Module:
    if not isinstance(spec, str):
        given = bridges.adopted(spec)
        if not isinstance(given, nn.Module):
            raise InputError(f"model must be a name, an import path or an nn.Module, got {type(spec).__name__}")
        return given
    if spec in BUILTIN:
        return _builtin(spec, weights, normalised)
    bridged = bridges.opened(spec)
    if bridged is not None:
        if weights is not None:
            raise InputError(f"model {spec!r} brings its own weights: leave weights out")
        if normalised and getattr(bridged, "normalises", False):
            raise InputError(f"model {spec!r} brings its own normalisation: leave mean and std out")
        return bridged
    if ":" in spec:
        built = factories.build(spec)
        return built if normalised else bridges.configured(built, spec)
    suffix = Path(spec).suffix.lower()
    if suffix in (".h5", ".hdf5"):
        raise InputError(
            f"model {spec!r} is an older file of Keras, which can hold code and is not read. Where you trust it, open "
            'it in Keras and save it again: model.save("net.keras")'
        )
    if suffix in _WEIGHT_FILES:
        raise InputError(
            f"model {spec!r} is a weights file, which does not say what the network looks like: "
            f'load_model("package.module:factory", weights={spec!r})'
        )
    if suffix == ".py":
        raise InputError(f"model {spec!r} names a file but nothing in it: write {spec + ':factory'!r}")
    raise InputError(
        unknown("model", spec, list(BUILTIN)) + ' Or give "package.module:factory" or "path/to/file.py:factory".'
    )


def _builtin(name: str, weights: str | Path | None, normalised: bool) -> nn.Module:
    if normalised:
        raise InputError(f"mean and std are for your own models; {name!r} takes images in [0, 1] as they are")
    builtin = BUILTIN[name]
    with torch.random.fork_rng(devices=[]):
        model = builtin.network()
    if weights is None:
        load_weights(model, builtin.weights(), name)
    return model


def _on_device(model: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(f'device {str(device)!r} cannot be used: {reason(error)}; "cpu" always works') from error
