"""A .keras file, looked at before Keras reads it: no code, no strangers, no way out of the archive."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sparring.errors import DataError, MissingExtraError
from sparring.loading.limits import MAX_BYTES
from sparring.loading.paths import existing_file
from sparring.loading.reason import reason

MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
MOST_CONFIG, BULKY, GROWS = 64 * 2**20, 64 * 2**20, 100
ROOMS = (
    *("layers", "models", "initializers", "regularizers", "constraints", "activations", "dtype_policies"),
    *("optimizers", "losses", "metrics", "src.models", "src.ops", "src.layers"),
)
"""Below `keras`: where the parts of a model may come from."""
CODE = {
    *("__lambda__", "Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"),
    *("TextVectorization", "StringLookup", "IntegerLookup", "IndexLookup"),
}
"""Parts that run code of the file's author, or read other files."""
PLAIN = {"__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__", "__complex__", "__none__"}
WIDTHS = {
    *("units", "filters", "kernel_size", "input_dim", "output_dim", "depth_multiplier"),
    *("num_heads", "key_dim", "value_dim", "head_dim", "num_query_heads", "num_key_value_heads"),
}
"""Settings of layers that have so many weights at least."""
LENGTHS, LONGEST = {"padding", "size", "height", "width", "n", "output_shape", "input_shape", "batch_shape"}, 8192
"""Settings of layers that make pictures larger, or say that they are."""
_OWN = 'Where you trust it, build the model in a function of your own and name that: load_model("my_model.py:function")'
BARE = {"Sequential", "Functional", "Model", "DTypePolicy", "FloatDTypePolicy", "Variable", "Input", "KerasTensor"}
"""Classes that stand directly in `keras`."""


def checked(path: Path) -> None:
    """Raise `DataError` unless the file at `path` is a plain .keras archive of Keras's own layers."""
    existing_file(path, "the Keras model")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            config = json.loads(archive.read("config.json"))
            if not isinstance(config, dict):
                raise DataError(f"{path}: its config.json holds a {type(config).__name__}, expected a model")
            weights = archive.read("model.weights.h5")
    except DataError:
        raise
    except Exception as error:  # the reader meets arbitrary bytes
        raise DataError(
            f"{path} is no .keras archive: {reason(error)}; older .h5 files can hold code and are not read: load them "
            'yourself and save again, model.save("model.keras")'
        ) from error
    numbers = _check_weights(path, weights)
    model = {key: value for key, value in config.items() if key != "compile_config"}  # optimiser and loss: never read
    for part in _parts(model):
        _check_part(path, part)
        for settings in (part.get("config"), part.get("build_config")):
            _check_width(path, settings, numbers)


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    for member in archive.infolist():
        place = PurePosixPath(member.filename.replace("\\", "/"))
        linked = (member.external_attr >> 16) & 0o170000 == 0o120000
        if place.is_absolute() or ".." in place.parts or linked:
            raise DataError(f"{path} holds {member.filename!r}, which leads out of the archive: refused")
        if member.filename not in MEMBERS:
            raise DataError(
                f"{path} holds {member.filename!r} beside the model; only {', '.join(MEMBERS)} are read. Models with "
                "assets (vocabularies) are not image classifiers"
            )
        _check_size(path, member.filename, member.compress_size, member.file_size)
    if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES} bytes when unpacked, which is the most that is read")


def _check_size(path: Path, what: str, packed: int, unpacked: int) -> None:
    """Keras packs nothing, so what grows a lot is no model."""
    most = MOST_CONFIG if what.endswith(".json") else MAX_BYTES
    if unpacked > most or (unpacked > BULKY and unpacked > GROWS * packed):
        raise DataError(
            f"{path}: {what} is {packed} bytes that become {unpacked}: refused; at most {most} bytes are read, and "
            f"{GROWS} times what is stored"
        )


def _check_weights(path: Path, content: bytes) -> int:
    """HDF5 can point to other files; weights have no reason to. Returns how many numbers there are."""
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("a .keras file", "keras") from None
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            sizes = [(str(d.name), d.id.get_storage_size(), d.nbytes, d.size) for d in _datasets(path, file, h5py)]
        for name, stored, size, _ in sizes:
            _check_size(path, name, stored, size)
        return sum(count for *_, count in sizes)
    except DataError:
        raise
    except Exception as error:  # so does HDF5's
        raise DataError(f"{path}: its weights cannot be read: {reason(error)}") from error


def _datasets(path: Path, file: Any, h5py: Any) -> Iterator[Any]:
    """Every dataset once, however many names lead there. Raises `DataError` for a way out of the file."""
    waiting, seen = [file], set()
    while waiting:
        group = waiting.pop()
        for name in group:
            plain = isinstance(group.get(name, getlink=True), h5py.HardLink)
            found: Any = group[name] if plain else None
            if not plain or (isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)):
                place = f"{group.name}/{name}"
                raise DataError(f"{path}: its weights lead to another file ({place!r}): refused")
            place = h5py.h5o.get_info(found.id).addr
            if place in seen:
                continue
            seen.add(place)
            if isinstance(found, h5py.Group):
                waiting.append(found)
            elif isinstance(found, h5py.Dataset):
                yield found


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Every serialised object in a configuration, however deep."""
    waiting = [config]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if "class_name" in found:
                yield found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _check_part(path: Path, part: dict[str, Any]) -> None:
    name, module = str(part["class_name"]), part.get("module")
    said = f"{module}.{name}" if module else name
    if not isinstance(part["class_name"], str) or not isinstance(module, (str, type(None))):
        raise DataError(f"{path} holds a part whose class is {said[:80]}, which is no name: refused")
    if name in CODE:
        raise DataError(
            f"{path} holds a {name} layer, which runs code of the file's author or reads other files: refused. {_OWN}"
        )
    if name in PLAIN and module in (None, "builtins"):
        return
    room = str(module).removeprefix("keras.")
    ours = module == "keras" and name in BARE
    ours = ours or (str(module).startswith("keras.") and any(room == r or room.startswith(r + ".") for r in ROOMS))
    function = name == "function" and module != "keras.activations"
    if not ours or function:
        raise DataError(
            f"{path} asks for {said}, which is no layer of Keras: refused, since naming it could run code. {_OWN}"
        )


def _check_width(path: Path, config: Any, numbers: int) -> None:
    """A layer that is wider than all weights together has none here; building it could take all memory. So could what a
    layer without weights makes of a small picture.
    """
    for key, value in config.items() if isinstance(config, dict) else ():
        sizes = [abs(size) for size in _numbers(value)]
        if key in WIDTHS and math.prod(size for size in sizes if size) > numbers:
            raise DataError(
                f"{path} declares a layer with {key} = {value}, but holds {numbers} weights in all: refused"
            )
        if key in LENGTHS and max(sizes, default=0) > max(LONGEST, numbers):
            raise DataError(f"{path} declares a layer with {key} = {value}; {LONGEST} at most is read: refused")


def _numbers(value: Any) -> Iterator[float]:
    """Those in a setting, in lists of lists too."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)):
        yield value
