"""Single NumPy arrays."""

from __future__ import annotations

import struct
import tokenize
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.errors import DataError
from sparring.loading.limits import check_bytes
from sparring.loading.paths import existing_file, user_path
from sparring.loading.reason import reason

BROKEN_ARRAY = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    Warning,
)
"""What NumPy's header parser raises for broken files. Warnings count where the caller turned them into errors."""


def load_array(path: str | Path) -> Tensor:
    """Images of a .npy file as float: uint8 0-255 divided by 255, floats as they are. Raises `DataError`."""
    file = existing_file(user_path(path), "the array")
    array = read_npy(file)
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise DataError(f"{file} holds {array.dtype}; images are uint8 from 0 to 255 or floats")
    images = torch.from_numpy(array.astype(np.float32, copy=False))
    return images / 255 if array.dtype == np.uint8 else images


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """The array of a .npy file, never unpickled. Raises `DataError` for a broken or oversized one."""
    with suppress(OSError), path.open("rb") as stream:
        if stream.read(6) not in (b"\x93NUMPY", b"PK\x03\x04\x14\x00", b""):
            raise DataError(f"{path} is not a readable .npy file: it does not begin like one; write it with numpy.save")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is an archive; give it the suffix .npz")
        check_bytes(path, "the array", mapped.shape, mapped.dtype.itemsize)
        return np.array(mapped)
    except BROKEN_ARRAY as error:
        raise DataError(f"{path} is not a readable .npy file: {reason(error)}") from error
