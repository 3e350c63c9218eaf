"""Which bridge a path needs, by what lies there."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.loading.paths import kind_of, user_path

if TYPE_CHECKING:
    from torch import nn

FORMS = {
    ".toml": "sparring.bridges.http.remote:open_endpoint",
    ".keras": "sparring.bridges.keras.model:open_keras",
    ".onnx": "sparring.bridges.onnx.opening:open_onnx",
}
"""Suffix to the function that opens such a file."""
FOLDERS = {"config.json": "sparring.bridges.huggingface:open_huggingface"}
"""A file that tells what a folder holds, to the function that opens the folder."""


def form_of(spec: str) -> str | None:
    """The bridge that opens the file or folder `spec`, as "module:function"; None if it names neither."""
    path = user_path(spec)
    if path.suffix.lower() in FORMS:
        return FORMS[path.suffix.lower()]
    inside = [opener for name, opener in FOLDERS.items() if kind_of(path / name) == "file"]
    return inside[0] if inside else None


def opened(spec: str) -> nn.Module | None:
    """The model that lies at `spec`, or None if no bridge leads there. Raises what the bridge raises."""
    opener = form_of(spec)
    if opener is None:
        return None
    place, _, name = opener.partition(":")
    model: nn.Module = getattr(import_module(place), name)(Path(user_path(spec)))
    return model


def adopted(model: Any) -> Any:
    """A Keras model in memory behind its bridge; anything else as it is. Keras is not imported for that."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, getattr(keras, "Model", ())):
        return model
    from sparring.bridges.keras import from_keras

    return from_keras(model)


def remarks(model: Any) -> list[str]:
    """What the bridges inside `model` have to say: where requests go, what was changed on the way."""
    parts = model.modules() if hasattr(model, "modules") else ()
    found = [part.remarks() for part in parts if callable(getattr(part, "remarks", None))]
    return list(dict.fromkeys(line for lines in found for line in lines))
