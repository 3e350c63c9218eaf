"""Real photographs that scikit-image and scikit-learn carry, so examples need no download."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sparring.errors import DataError, MissingExtraError, unknown
from sparring.loading.imagenet_names import imagenet_names
from sparring.loading.lazy import LazyImages
from sparring.loading.pictures import read_picture
from sparring.loading.source import Source, Wanted, refuse_training_split

DEFAULT_SIZE = (224, 224)


class Photo(NamedTuple):
    """`file` inside `package`; `label` is its ImageNet-1k class where one is beyond doubt."""

    package: str
    file: str
    label: int | None = None


PHOTOS: dict[str, Photo] = {
    "chelsea": Photo("skimage", "data/chelsea.png", 285),  # Egyptian cat: a spotted tabby's face
    "coffee": Photo("skimage", "data/coffee.png", 967),  # espresso
    "rocket": Photo("skimage", "data/rocket.jpg", 657),  # missile, ImageNet's class for rockets on a pad
    "china": Photo("sklearn", "datasets/images/china.jpg", 698),  # palace: the Summer Palace in Beijing
    "camera": Photo("skimage", "data/camera.png", 872),  # tripod, with a camera and a man on it (grey)
    "astronaut": Photo("skimage", "data/astronaut.png"),
    "flower": Photo("sklearn", "datasets/images/flower.jpg"),  # a dahlia; ImageNet has only a daisy
    "hubble": Photo("skimage", "data/hubble_deep_field.jpg"),
    "immunohistochemistry": Photo("skimage", "data/ihc.png"),
    "motorcycle": Photo("skimage", "data/motorcycle_left.png"),  # neither moped nor scooter
    "retina": Photo("skimage", "data/retina.jpg"),
}
"""By name. EfficientNet-lite0 predicts every label given here."""


def photo_path(name: str) -> Path:
    """Where the photograph is. Raises `DataError` for an unknown name, `MissingExtraError` without its package."""
    if name not in PHOTOS:
        raise DataError(unknown("picture", name, list(PHOTOS)) + " Or give the path of a PNG, JPEG or WebP file.")
    photo = PHOTOS[name]
    spec = find_spec(photo.package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"the photograph {name!r}", "photos")
    return Path(spec.origin).parent / photo.file


def photos(wanted: Wanted) -> Source:
    """The photographs with an ImageNet label, 224 x 224 unless a size is wanted. They have no training part."""
    refuse_training_split(wanted, "'photos'", "train on a folder of your own pictures")
    labelled = {name: photo.label for name, photo in PHOTOS.items() if photo.label is not None}
    names = list(labelled)
    size, channels = wanted.size or DEFAULT_SIZE, wanted.channels or 3
    paths = [photo_path(name) for name in names]

    def open_rows(rows: list[int]) -> LazyImages:
        def read(chosen: Sequence[int]) -> Tensor:
            return torch.stack([read_picture(paths[rows[i]], size, channels) for i in chosen])

        return LazyImages(read, (len(rows), channels, *size))

    try:
        class_names = imagenet_names()
    except MissingExtraError:
        class_names = None
    return Source(torch.tensor(list(labelled.values())), open_rows, class_names, tuple(names))
