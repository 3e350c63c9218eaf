"""Single NumPy arrays."""

from __future__ import annotations

import struct
import tokenize
from pathlib import Path
from typing import Any

import numpy as np

from sparring.errors import DataError
from sparring.loading.limits import check_bytes
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


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """The array of a .npy file, never unpickled. Raises `DataError` for a broken or oversized one."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is an archive; give it the suffix .npz")
        check_bytes(path, "the array", mapped.shape, mapped.dtype.itemsize)
        return np.array(mapped)
    except BROKEN_ARRAY as error:
        raise DataError(f"{path} is not a readable .npy file: {reason(error)}") from error
