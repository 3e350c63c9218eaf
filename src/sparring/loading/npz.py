"""NumPy archives: every size is checked against the headers before an array is read, and nothing is unpickled."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from sparring.errors import DataError
from sparring.loading.arrays import open_array
from sparring.loading.labels import check_length, checked_labels
from sparring.loading.limits import EAGER_BYTES, check_bytes
from sparring.loading.npy import BROKEN_ARRAY
from sparring.loading.paths import existing_file
from sparring.loading.reason import reason
from sparring.loading.source import Source, Wanted, refuse_training_split

_IMAGES = ("images", "x", "data")
_LABELS = ("labels", "y", "targets", "target")
_HEADER_BYTES = 2**16
_BROKEN = (*BROKEN_ARRAY, RuntimeError, zlib.error, zipfile.BadZipFile)
"""What zipfile and NumPy's header parser raise for broken archives."""


def npz(path: Path, wanted: Wanted) -> Source:
    """Images and labels from an archive: keys images/labels, x/y, or with a split, x_test/y_test, test_images/...

    Optional key class_names (text, one per class). Large arrays stored without compression are mapped, not read.
    Raises `DataError` for missing keys, pickled or oversized arrays, and labels that do not fit.
    """
    existing_file(path, "the archive")
    with _broken_archive(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy").lower(): info for info in archive.infolist()}
        images_key, labels_key = _keys(path, list(members), wanted)
        images = _read(path, archive, members[images_key])
        what = f"{path} [{images_key}]"
        if images.ndim == 0:
            raise DataError(f"{what}: images must have shape (N, C, H, W), got a single number")
        if wanted.labels is None:
            found = _read(path, archive, members[labels_key])
            labels = checked_labels(found, f"{path} [{labels_key}]", len(images))
        else:
            labels = wanted.labels
            check_length(len(labels), len(images), what)
        names = wanted.classes or _class_names(path, archive, members.get("class_names"))
    return Source(labels, lambda rows: open_array(images, rows, wanted, what), names)


def _keys(path: Path, known: list[str], wanted: Wanted) -> tuple[str, str]:
    """Keys of images and labels: those of the split, else those without a split."""
    patterns = (f"{{}}_{wanted.split}", f"{wanted.split}_{{}}", "{}")
    for pattern in patterns:
        images = [key for name in _IMAGES if (key := pattern.format(name)) in known]
        labels = [key for name in _LABELS if (key := pattern.format(name)) in known]
        if images and (labels or wanted.labels is not None):
            if pattern == "{}":
                refuse_training_split(wanted, path, "store the keys x_train, y_train, x_test, y_test")
            return images[0], (labels or [""])[0]
    raise DataError(
        f"{path} has the keys {', '.join(sorted(known)) or 'none'}; for split={wanted.split!r} expected images and "
        f"labels, x and y, or x_{wanted.split} and y_{wanted.split} (the labels may come with labels= instead)"
    )


def _class_names(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> tuple[str, ...] | None:
    if info is None:
        return None
    names = _read(path, archive, info)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(f"{path} [class_names]: expected a list of texts, got {names.dtype} of shape {names.shape}")
    return tuple(str(name) for name in names)


@dataclass(frozen=True)
class _Layout:
    """What the .npy header declares, and where the data starts behind it."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int


def _read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    """The array of one member; a large one that is stored uncompressed is mapped read-only."""
    what = f"[{info.filename}]"
    check_bytes(path, what, (info.file_size,))
    with archive.open(info) as stream:
        layout = _layout(path, what, io.BytesIO(stream.read(_HEADER_BYTES)))
    size = check_bytes(path, what, layout.shape, layout.dtype.itemsize)
    if layout.start + size != info.file_size:
        raise DataError(
            f"{path} {what}: the shape {layout.shape} of {layout.dtype} needs {size} bytes, "
            f"{info.file_size - layout.start} are there; store the archive again"
        )
    if size > EAGER_BYTES and info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        start = _data_offset(path, info) + layout.start
        order = "F" if layout.fortran else "C"
        return np.memmap(path, layout.dtype, "r", start, layout.shape, order)  # type: ignore[call-overload, no-any-return]
    with archive.open(info) as stream:
        stream.read(layout.start)
        flat = np.frombuffer(stream.read(size), layout.dtype, prod(layout.shape))
    return flat.reshape(layout.shape[::-1]).T if layout.fortran else flat.reshape(layout.shape)


def _layout(path: Path, what: str, stream: IO[bytes]) -> _Layout:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    if version > (2, 0):
        raise DataError(f"{path} {what}: .npy format {version} is not read; store it with numpy.savez")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(
            f"{path} {what} holds pickled Python objects, which are never unpacked: they can run code. "
            "Store plain numbers: numpy.savez(path, images=images.astype('uint8'), labels=labels.astype('int64'))"
        )
    return _Layout(tuple(int(extent) for extent in shape), fortran, dtype, stream.tell())


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes start: behind its local header, whose name and extra field differ in length."""
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        header = raw.read(30)
    if header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile("a member's local header is missing")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + int(name) + int(extra)


@contextmanager
def _broken_archive(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(
            f"{path} is not a readable .npz archive: {reason(error)}; store it again with numpy.savez"
        ) from error
