"""Single NumPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparring.errors import DataError
from sparring.loading.limits import check_bytes


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """The array of a .npy file, never unpickled. Raises `DataError` for a broken or oversized one."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is an archive; give it the suffix .npz")
        check_bytes(path, "the array", mapped.shape, mapped.dtype.itemsize)
        return np.array(mapped)
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError) as error:
        raise DataError(f"{path} is not a readable .npy file: {error}") from error
