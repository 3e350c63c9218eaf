"""Labels: whole numbers >= 0, one per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.errors import DataError
from sparring.loading.limits import check_bytes
from sparring.loading.npy import read_npy
from sparring.loading.paths import existing_file, user_path
from sparring.loading.reason import reason

Labels = Tensor | Sequence[int] | str | Path


def given_labels(labels: Labels) -> Tensor:
    """Int64 (N,) from numbers, or from a file: .npy, .txt (one whole number per line) or idx1 (.gz too).

    Raises `DataError` for anything else.
    """
    if not isinstance(labels, (str, Path)):
        values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        return checked_labels(values, "labels")
    path = existing_file(user_path(labels), "the labels file")
    if path.suffix.lower() == ".npy":
        return checked_labels(read_npy(path), str(path))
    if path.suffix.lower() in (".txt", ".csv"):
        return checked_labels(_read_lines(path), str(path))
    if "idx1" in path.name:
        from sparring.loading.idx import read_idx

        return checked_labels(read_idx(path, dimensions=(1,)), str(path))
    raise DataError(f"labels file {path}: expected .npy, .txt (one whole number per line) or an idx1-ubyte file")


def checked_labels(values: np.ndarray[Any, Any], what: str, n: int | None = None) -> Tensor:
    """Int64 (N,); `DataError` naming `what` unless they are whole numbers >= 0, one for each of `n` images."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        hint = "; turn one-hot rows into class indices with .argmax(1)" if values.ndim == 2 else ""
        raise DataError(f"{what}: labels must have shape (N,), one class index per image, got {values.shape}{hint}")
    if values.dtype.kind not in "iu":
        raise DataError(
            f"{what}: labels must be whole numbers, got {values.dtype}; convert class indices with .astype('int64')"
        )
    if values.size and int(values.min()) < 0:
        raise DataError(f"{what}: labels must be class indices >= 0, got {int(values.min())}")
    if values.size and int(values.max()) > 10**9:
        raise DataError(f"{what}: labels must be class indices, got {int(values.max())}")
    if n is not None:
        check_length(len(values), n, what)
    return torch.from_numpy(values.astype(np.int64))


def check_length(labels: int, images: int, what: str) -> None:
    """`DataError` unless there is one label per image."""
    if labels != images:
        raise DataError(f"{what}: {labels} labels for {images} images; give exactly one label per image")


def _read_lines(path: Path) -> np.ndarray[Any, Any]:
    check_bytes(path, "the file", (path.stat().st_size,))
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not readable text: {reason(error)}") from error
    for number, line in enumerate(lines, 1):
        if not (line.isascii() and line.lstrip("-").isdigit() and len(line) < 12):
            raise DataError(f"{path}, entry {number}: expected one whole number per line, got {line[:40]!r}")
    return np.array([int(line) for line in lines], dtype=np.int64)
