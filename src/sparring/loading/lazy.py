"""Images that are decoded when they are looked at."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import SupportsIndex, final

import torch
from torch import Tensor

Index = slice | Tensor | Sequence[int] | SupportsIndex


@final
class LazyImages:
    """Images (N, C, H, W), float32 in [0, 1], read and decoded on demand, so a set may exceed the memory.

    `images[3]` is one image (C, H, W); `images[10:20]`, `images[[4, 1]]` and `images[mask]` are tensors
    (n, C, H, W); `images[:]` is everything. Nothing is kept: the same index decodes again.
    """

    dtype = torch.float32

    def __init__(self, read: Callable[[Sequence[int]], Tensor], shape: tuple[int, int, int, int]) -> None:
        self._read = read
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyImages(shape={self.shape})"

    def __getitem__(self, index: Index) -> Tensor:
        """The images at an index, a slice, a list of indices or a bool mask (N,). Raises `IndexError`."""
        if isinstance(index, slice):
            return self._rows(range(len(self))[index])
        where = torch.as_tensor(index)
        if where.dim() == 0:
            return self._read([range(len(self))[operator.index(index)]])[0]  # type: ignore[arg-type]
        chosen: list[int] = torch.arange(len(self))[where if len(where) else where.long()].tolist()
        return self._rows(chosen)

    def _rows(self, rows: Sequence[int]) -> Tensor:
        return self._read(rows) if len(rows) else torch.empty((0, *self.shape[1:]))
