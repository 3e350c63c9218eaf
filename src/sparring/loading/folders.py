"""A folder of class folders of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparring.errors import DataError, unknown
from sparring.loading.labels import check_length
from sparring.loading.lazy import LazyImages
from sparring.loading.pictures import SUFFIXES, read_header, read_picture
from sparring.loading.source import NoPartError, Source, Wanted, refuse_training_split

_SPLITS = {"train": ("train",), "test": ("test", "val")}
_CLUTTER = ("thumbs.db", "desktop.ini")


def folder(path: Path, wanted: Wanted) -> Source:
    """Pictures (PNG, JPEG, WebP) in one folder per class; hidden files are passed over.

    Class folders are sorted by name and numbered from 0, or looked up in `wanted.classes`, the class names in the
    model's order. A folder that holds the folders train/ and test/ (or val/) of class folders has these splits.
    With `wanted.labels` the pictures lie in the folder itself, sorted by name. Raises `DataError` for an empty
    folder or class, a file that is no picture, and class folders whose order is in doubt.
    """
    root = _split_folder(path, wanted)
    if wanted.labels is not None:
        files = _pictures(root)
        check_length(len(wanted.labels), len(files), str(root))
        return _source(root, files, wanted.labels, wanted.classes, wanted)
    groups = _class_folders(root)
    names = [group.name for group in groups]
    numbers = _numbered(root, names, wanted.classes)
    files, labels = [], []
    for group, number in zip(groups, numbers, strict=True):
        found = _pictures(group)
        files += found
        labels += [number] * len(found)
    return _source(root, files, torch.tensor(labels), wanted.classes or tuple(names), wanted)


def _split_folder(path: Path, wanted: Wanted) -> Path:
    splits = {name for names in _SPLITS.values() for name in names if _holds_folders(path / name)}
    for name in _SPLITS[wanted.split]:
        if name in splits:
            return path / name
    if splits:
        raise NoPartError(f"{path} has {', '.join(sorted(splits))}/ but no folder for split={wanted.split!r}")
    refuse_training_split(wanted, path, "put the class folders into train/ and test/")
    return path


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and any(child.is_dir() for child in path.iterdir())


def _visible(root: Path) -> list[Path]:
    try:
        found = sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"cannot list the folder {root}: {error.strerror}") from error
    return [p for p in found if not p.name.startswith(".") and p.name.lower() not in _CLUTTER]


def _class_folders(root: Path) -> list[Path]:
    entries = _visible(root)
    groups = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    if not groups:
        found = f"it holds {len(loose)} pictures and no folders" if loose else "it is empty"
        raise DataError(
            f"{root} needs one folder of pictures per class, but {found}; "
            "sort the pictures into class folders, or give their labels with labels="
        )
    if loose:
        raise DataError(f"{loose[0]} lies beside the class folders; move it into one of them")
    return groups


def _pictures(group: Path) -> list[Path]:
    entries = _visible(group)
    if not entries:
        raise DataError(f"{group} holds no pictures; add some or remove the folder")
    for entry in entries:
        if entry.is_dir() or entry.suffix.lower() not in SUFFIXES:
            kind = "a folder" if entry.is_dir() else "not a PNG, JPEG or WebP picture"
            raise DataError(f"{entry} is {kind}; only files ending in {', '.join(SUFFIXES)} may be in {group}")
    return entries


def _numbered(root: Path, names: list[str], classes: tuple[str, ...] | None) -> list[int]:
    if classes is not None:
        for name in names:
            if classes.count(name) != 1:
                problem = "stands for several classes" if name in classes else "is none of the classes"
                raise DataError(f"{root / name} {problem} given with classes=: {unknown('class', name, [*classes])}")
        return [classes.index(name) for name in names]
    if all(name.isdecimal() for name in names) and [int(name) for name in names] != list(range(len(names))):
        raise DataError(
            f"the class folders of {root} are numbers ({', '.join(names[:4])}, ...) but, sorted by name, not "
            "0, 1, 2, ...: say which class is which with classes=[...], the folder names in the model's order"
        )
    return list(range(len(names)))


def _source(
    root: Path, files: list[Path], labels: Tensor, class_names: tuple[str, ...] | None, wanted: Wanted
) -> Source:
    def open_rows(rows: list[int]) -> LazyImages:
        return _open_pictures([files[row] for row in rows], wanted)

    return Source(labels, open_rows, class_names, tuple(str(file.relative_to(root)) for file in files))


def _open_pictures(files: list[Path], wanted: Wanted) -> LazyImages:
    """Checks every header now, so a broken file shows before the work and not in the middle of it."""
    headers = [read_header(file) for file in files]
    first = headers[0]
    size = wanted.size or (first.height, first.width)
    if wanted.size is None:
        for file, header in zip(files, headers, strict=True):
            if (header.height, header.width) != size:
                raise DataError(
                    f"pictures differ in size: {files[0]} is {size[0]} x {size[1]}, "
                    f"{file} is {header.height} x {header.width} (height x width); give size="
                )
    channels = wanted.channels or (1 if all(header.grey for header in headers) else 3)

    def read(chosen: Sequence[int]) -> Tensor:
        pictures = [read_picture(files[i], wanted.size, channels) for i in chosen]
        for i, picture in zip(chosen, pictures, strict=True):
            if picture.shape[1:] != size:
                raise DataError(f"{files[i]} is {tuple(picture.shape[1:])}, not {size} as before; give size=")
        return torch.stack(pictures)

    return LazyImages(read, (len(files), channels, *size))
