"""Where images come from: labels known at once, pictures opened for the rows that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparring.errors import DataError, InputError, unknown
from sparring.loading.lazy import LazyImages

Size = int | Sequence[int] | None
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Wanted:
    """What the caller asked of a source, checked. `size` is (H, W); None keeps what is stored."""

    split: str = "test"
    size: tuple[int, int] | None = None
    channels: int | None = None
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """`labels` int64 (N,); `open(rows)` gives the images of these rows; `files` names a file per row."""

    labels: Tensor
    open: Callable[[list[int]], LazyImages]
    class_names: tuple[str, ...] | None = None
    files: tuple[str, ...] | None = None


def checked_split(split: str) -> str:
    """`split` if it is "train" or "test"; else `InputError`."""
    if split not in SPLITS:
        raise InputError(unknown("split", split, list(SPLITS)))
    return split


def checked_size(size: Size) -> tuple[int, int] | None:
    """(H, W) from None, one number or a pair of numbers >= 1; else `InputError`."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= 8000 for v in pair):
        raise InputError(f"size must be a whole number from 1 to 8000 or a pair (height, width), got {size!r}")
    return pair


def checked_channels(channels: int | None) -> int | None:
    """None or a number of channels >= 1; else `InputError`."""
    if channels is not None and (isinstance(channels, bool) or not isinstance(channels, int) or channels < 1):
        raise InputError(f"channels must be a whole number >= 1 or None (as stored), got {channels!r}")
    return channels


class NoPartError(DataError):
    """The source has no part of the name that was asked for."""


def refuse_training_split(wanted: Wanted, name: object, how: str) -> None:
    """A source that is one set has no training part: `NoPartError` that says `how` to make one."""
    if wanted.split == "train":
        raise NoPartError(f"{name} is one set without a training part: leave split out, or {how}")


def centre_box(height: int, width: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest centred box (top, left, height, width) with the shape of `size`, to the nearest pixel."""
    scale = min(height / size[0], width / size[1])
    h, w = max(1, min(height, round(size[0] * scale))), max(1, min(width, round(size[1] * scale)))
    return (height - h) // 2, (width - w) // 2, h, w
