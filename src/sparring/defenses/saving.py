"""Named arrays with a JSON description in one safetensors file: nothing in it can run, and damage is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.errors import DataError
from sparring.files import write_whole

SCHEMA = 1
MOST = 2**31
"""Bytes; a larger file is not ours."""


def write(path: Path, kind: str, arrays: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write `arrays` and `facts` (plain JSON) as a file of this `kind`, whole or not at all."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()}
    if not plain:  # the format wants at least one
        plain = {"nothing": torch.zeros(1)}
    said = {"schema": SCHEMA, "kind": kind, "facts": facts}
    said["sha256"] = _digest(plain, said)
    write_whole(path, save(plain, metadata={"sparring": json.dumps(said)}))
    return path


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arrays and facts of a file that `write` wrote. Raises `DataError` that says what is wrong with it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"the {kind} {path} does not exist or is no file; fit and save it first")
    size = path.stat().st_size
    if not 8 < size <= MOST:
        raise DataError(f"the {kind} {path} has {size} bytes: it is truncated or was not saved by sparring")
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("sparring", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"the {kind} {path} cannot be read ({reason}): it is truncated or damaged; fit again"
        ) from error
    if not isinstance(said, dict) or said.get("kind") != kind or not isinstance(said.get("facts"), dict):
        raise DataError(f"{path} is not a {kind} saved by sparring")
    if said.get("schema") != SCHEMA:
        raise DataError(f"{path} was saved by another version of sparring (schema {said.get('schema')}): fit again")
    claimed = said.pop("sha256", None)
    if claimed != _digest(arrays, said):
        raise DataError(f"the {kind} {path} was changed or damaged since it was saved; fit and save it again")
    arrays.pop("nothing", None)
    return arrays, said["facts"]


def _digest(arrays: dict[str, Tensor], said: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(arrays.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
