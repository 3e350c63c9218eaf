"""Data sets by name or path."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor

from sparring.errors import DataError, InputError, unknown
from sparring.loading.builtin_data import DATA_SETS
from sparring.loading.folders import folder
from sparring.loading.idx import idx, is_idx_folder
from sparring.loading.labels import Labels, given_labels
from sparring.loading.lazy import LazyImages
from sparring.loading.limits import EAGER_BYTES
from sparring.loading.npz import npz
from sparring.loading.order import first_balanced
from sparring.loading.paths import kind_of, user_path
from sparring.loading.source import Size, Source, Wanted, checked_channels, checked_size, checked_split

Images = Tensor | LazyImages


@final
class Dataset(tuple[Images, Tensor]):
    """The pair (images, labels), which also knows its name, classes, rows and files.

    images: float32 (N, C, H, W) in [0, 1]; labels: int64 (N,). `class_names` is None where nobody named them;
    `rows` are the places of the images in their source, int64 (N,); `files` names a picture file per image.
    """

    name: str
    class_names: tuple[str, ...] | None
    rows: Tensor
    files: tuple[str, ...] | None

    def __new__(
        cls,
        images: Images,
        labels: Tensor,
        name: str,
        rows: Tensor,
        class_names: tuple[str, ...] | None = None,
        files: tuple[str, ...] | None = None,
    ) -> Dataset:
        """A pair with attributes; `name` is what it was loaded by."""
        made = super().__new__(cls, (images, labels))
        made.name, made.rows, made.class_names, made.files = name, rows, class_names, files
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (*self, self.name, self.rows, self.class_names, self.files)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, images={tuple(self.images.shape)})"

    @property
    def images(self) -> Images:
        """Float32 (N, C, H, W) in [0, 1]: a tensor, or `LazyImages` for a large set."""
        return self[0]

    @property
    def labels(self) -> Tensor:
        """Int64 (N,)."""
        return self[1]

    def digest(self) -> str:
        """SHA-256 over shape, pixel values and labels, hex; the same whether the images are lazy or not."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for start in range(0, len(self.images), 256):
            digest.update(self.images[start : start + 256].contiguous().numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


def load_data(
    spec: str | Path,
    n: int | None = None,
    *,
    split: str = "test",
    size: Size = None,
    channels: int | None = None,
    labels: Labels | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    lazy: bool | None = None,
) -> Dataset:
    """Images and labels by the name of a data set or by path.

    spec: "digits", "mnist5k", "fashion-mnist", "photos"; a folder of class folders of PNG, JPEG or WebP pictures;
    an .npz archive; an idx file or the folder with MNIST's idx files. A known name wins over a folder of that
    name: write "./digits" for the folder.

    n: None takes everything in stored order; a number takes the first n of a class-balanced order drawn from
    `seed`, so n=100 is the beginning of n=500. split: "train" or "test"; a source without splits is one set and
    answers to "test" only. size: None keeps it (pictures must agree; "photos" become 224 x 224); a number or
    (H, W) crops the centre to that shape and scales it (bilinear, antialiased). channels: None keeps them; 3
    repeats grey; 1 takes the luminance of pictures. labels: numbers or a file, instead of those of the source,
    one per stored image. classes: the class names in the model's order; class folders are looked up there.
    lazy: None decodes sets larger than 256 MiB on demand (`LazyImages`), smaller ones at once; or say which.

    Returns a `Dataset`, a pair (images float32 (N, C, H, W) in [0, 1], labels int64 (N,)). Raises `DataError` for
    what cannot be read, naming the file, `InputError` for other arguments, `MissingExtraError` for a data set
    whose package is not installed.

    >>> images, labels = load_data("digits", n=500)
    >>> images.shape, labels.shape
    (torch.Size([500, 1, 8, 8]), torch.Size([500]))
    """
    wanted = Wanted(
        checked_split(split),
        checked_size(size),
        checked_channels(channels),
        None if labels is None else given_labels(labels),
        None if classes is None else _checked_classes(classes),
    )
    name = str(spec)
    source = _open(name, wanted)
    if len(source.labels) == 0:
        raise DataError(f"{name} is empty: there is not a single image in it")
    rows = first_balanced(source.labels, n, seed)
    images = source.open(rows.tolist())
    files = None if source.files is None else tuple(source.files[row] for row in rows.tolist())
    taken = source.labels[rows]
    if source.class_names is not None and int(source.labels.max()) >= len(source.class_names):
        raise DataError(
            f"{name} has the label {int(source.labels.max())} but only {len(source.class_names)} class names; "
            "name every class, in order"
        )
    wait = 4 * images[0:1].numel() * len(images) > EAGER_BYTES if lazy is None else lazy
    return Dataset(images if wait else images[:], taken, name, rows, source.class_names, files)


def _open(name: str, wanted: Wanted) -> Source:
    if name in DATA_SETS:
        if wanted.labels is not None:
            raise InputError(f"labels is for your own files; the data set {name!r} has its labels")
        return DATA_SETS[name](wanted)
    path = user_path(name)
    kind = kind_of(path)
    if kind == "folder":
        return idx(path, wanted) if is_idx_folder(path) else folder(path, wanted)
    if path.suffix.lower() == ".npz":
        return npz(path, wanted)
    if "ubyte" in path.name or path.suffix.lower() in (".gz", ".idx"):
        return idx(path, wanted)
    if kind != "missing":
        raise DataError(
            f"{path} is neither a folder of class folders, nor an .npz archive, nor an idx file; "
            "one picture is read by load_image"
        )
    if path.name != name:
        raise DataError(f"the data set {path} does not exist; check the path (the current folder is {Path.cwd()})")
    raise DataError(
        unknown("data set", name, list(DATA_SETS))
        + " Or give the path of a folder of class folders, an .npz archive or an idx file."
    )


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if isinstance(classes, str) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"classes must be a list of class names in the model's order, got {classes!r}")
    return names
