"""IDX files, the format of MNIST: a big-endian header with the shape, then bytes; plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparring.errors import DataError
from sparring.loading.arrays import open_array
from sparring.loading.labels import check_length, checked_labels
from sparring.loading.limits import check_bytes
from sparring.loading.paths import existing_file
from sparring.loading.reason import reason
from sparring.loading.source import NoPartError, Source, Wanted

_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
_UNSIGNED_BYTE = 8


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def is_idx_folder(path: Path) -> bool:
    """Does the folder hold idx files of images?"""
    return any(_is_images(child) for child in path.iterdir())


def idx(path: Path, wanted: Wanted) -> Source:
    """Images from an idx3 (N, H, W) or idx4 (N, H, W, C) file and the labels file beside it (or `wanted.labels`).

    path: the images file, or a folder with the files of MNIST ("train-images-idx3-ubyte", "t10k-..." or
    "test-...", with or without ".gz"). Raises `DataError` for a missing, truncated or oversized file.
    """
    images_file = _images_file(path, wanted.split) if path.is_dir() else path
    images = read_idx(images_file, dimensions=(3, 4))
    if wanted.labels is None:
        labels_file = _labels_file(images_file)
        labels = checked_labels(read_idx(labels_file, dimensions=(1,)), str(labels_file), len(images))
    else:
        labels = wanted.labels
        check_length(len(labels), len(images), str(images_file))
    return Source(labels, lambda rows: open_array(images, rows, wanted, str(images_file)), wanted.classes)


def read_idx(path: Path, dimensions: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The uint8 array of an idx file with one of these numbers of dimensions. Raises `DataError`."""
    existing_file(path, "the idx file")
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: _Readable = gzip.GzipFile(fileobj=raw) if zipped else raw
            shape = _read_header(stream, path, dimensions)
            size = check_bytes(path, "its header", shape)
            content = _read_at_most(stream, size + 1)
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}; download it again") from error
    if len(content) != size:
        got = f"{len(content)}" if len(content) < size else f"more than {size}"
        problem = "truncated" if len(content) < size else "not what its header says"
        raise DataError(
            f"{path} is {problem}: shape {shape} needs {size} bytes after the header, the file has {got}; "
            "download it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_header(stream: _Readable, path: Path, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    magic = _read_at_most(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(f"{path} is not an idx file: it starts with {magic.hex() or 'nothing'}, expected 0000")
    if magic[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: only idx files of unsigned bytes (type 08) are read, this has type {magic[2]:02x}")
    if magic[3] not in dimensions:
        allowed = " or ".join(str(d) for d in dimensions)
        raise DataError(f"{path} has {magic[3]} dimensions, expected {allowed}; are images and labels swapped?")
    extents = _read_at_most(stream, 4 * magic[3])
    if len(extents) < 4 * magic[3]:
        raise DataError(f"{path} is truncated: its header needs {4 + 4 * magic[3]} bytes, it has {4 + len(extents)}")
    return struct.unpack(f">{magic[3]}I", extents)


def _read_at_most(stream: _Readable, size: int) -> bytearray:
    """Up to `size` bytes, also of a gzip stream that ends too early; memory grows only with what arrives."""
    content = bytearray()
    try:
        while len(content) < size and (piece := stream.read(min(2**16, size - len(content)))):
            content += piece
    except EOFError:
        pass
    return content


def _is_images(path: Path) -> bool:
    return "images" in path.name and "ubyte" in path.name and ("idx3" in path.name or "idx4" in path.name)


def _images_file(path: Path, split: str) -> Path:
    for prefix in _PREFIXES[split]:
        for child in sorted(path.iterdir()):
            if _is_images(child) and child.name.startswith(prefix):
                return child
    looked = " or ".join(f"{prefix}-images-idx3-ubyte[.gz]" for prefix in _PREFIXES[split])
    raise NoPartError(f"{path} has no idx file for split={split!r}; expected {looked}")


def _labels_file(images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    other = name.removesuffix(".gz") if name.endswith(".gz") else name + ".gz"
    for candidate in (images.with_name(name), images.with_name(other)):
        if candidate != images and candidate.exists():
            return candidate
    raise DataError(f"no labels for {images}: expected {name} beside it, or give labels=")
