"""Weight files: safetensors, or checkpoints of plain tensors. Nothing is ever unpickled."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.errors import DataError, InputError
from sparring.loading.limits import MAX_BYTES
from sparring.loading.paths import existing_file
from sparring.loading.reason import reason

_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put in front of every name."""
_OTHER_FORMATS = (".onnx", ".h5", ".hdf5", ".keras", ".pb", ".tflite", ".npz", ".joblib")
_SAVE = "save plain weights: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name to tensor, on the CPU, from .safetensors or a `torch.save` checkpoint of plain tensors.

    A checkpoint may keep them under "state_dict", "model_state_dict" or "model"; the prefixes of DataParallel and
    torch.compile are taken off. Raises `DataError` for a missing, empty, oversized or broken file, one that holds
    pickled objects (they could run code, so they are refused, not loaded), and one without a state_dict.
    """
    existing_file(path, "the weights file")
    suffix = path.suffix.lower()
    if suffix in _OTHER_FORMATS:
        raise DataError(f"the weights file {path} is {suffix}, expected .safetensors or a .pt/.pth checkpoint; {_SAVE}")
    _check_size(path)
    found = _read_safetensors(path) if suffix == ".safetensors" else _read_checkpoint(path)
    return _without_prefix(_state_dict(found, path))


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: object) -> None:
    """Copy `weights` into `model`, strictly. They may belong to the whole model or to what its wrappers wrap.

    Raises `InputError` with the missing, unexpected and misshapen names; `model` may then be partly overwritten.
    """
    target = _target(model, weights)
    try:
        target.load_state_dict(dict(weights), strict=True)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the weights {path} do not fit {type(target).__name__}: {_misfit(target, weights, error)}"
        ) from error


def _target(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The module whose names are those of the weights: the model or, going inwards, what it wraps."""
    innermost = model
    while True:
        if innermost.state_dict().keys() == weights.keys():
            return innermost
        inner = getattr(innermost, "inner", None)
        if not isinstance(inner, nn.Module):
            return innermost
        innermost = inner


def _misfit(model: nn.Module, weights: Mapping[str, Tensor], error: Exception) -> str:
    own = model.state_dict()
    shapes = [
        f"{name} (file {tuple(weights[name].shape)}, model {tuple(own[name].shape)})"
        for name in own
        if name in weights and isinstance(own[name], Tensor) and weights[name].shape != own[name].shape
    ]
    problems = [
        ("missing", [name for name in own if name not in weights]),
        ("unexpected", [name for name in weights if name not in own]),
        ("of another shape", shapes),
    ]
    told = [f"{len(names)} {kind}: {_short(names)}" for kind, names in problems if names]
    return "; ".join(told) or reason(error)


def _short(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(info.file_size for info in archive.infolist()))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from error
    if size > MAX_BYTES:
        raise DataError(f"the weights file {path} is {size} bytes unpacked; at most {MAX_BYTES} are read")


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _read_checkpoint(path: Path) -> Any:
    with path.open("rb") as file:
        begins = file.read(2)
    if begins != b"PK" and begins[:1] != b"\x80":  # neither an archive nor the older form
        raise _unreadable(path, "it is neither safetensors nor a checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        if name is None and "weights_only" not in str(error):
            raise _unreadable(path, error) from error
        if name is None and "Unsupported" not in str(error):
            raise _unreadable(path, "it is truncated or no checkpoint") from error
        raise _pickled(path, name.group(1) if name else "objects") from error
    except Exception as error:  # the parser meets arbitrary bytes
        if "TorchScript" in str(error) or "legacy" in str(error):
            raise _pickled(path, "a program (TorchScript or a legacy archive)") from error
        raise _unreadable(path, error) from error


def _pickled(path: Path, found: str) -> DataError:
    return DataError(
        f"the weights file {path} holds pickled objects ({found}), not only tensors. Unpickling can run code, so "
        f"sparring never does it. Where you trust the file, load it yourself and {_SAVE}"
    )


def _unreadable(path: Path, error: object) -> DataError:
    return DataError(f"the weights file {path} cannot be read: {reason(error)}; copy or download it again")


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
            return {str(name): tensor for name, tensor in found.items()}
        inside = [name for name in _NESTED if isinstance(found, Mapping) and isinstance(found.get(name), Mapping)]
        if not inside:
            break
        found = found[inside[0]]
    held = f"a {type(found).__name__}"
    if isinstance(found, Mapping):
        held = f"the entries {_short([str(name) for name in found])}" if found else "nothing"
    raise DataError(
        f"the weights file {path} holds {held}, expected names with tensors, or these under one of "
        f"{', '.join(_NESTED)}; {_SAVE}"
    )


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights
