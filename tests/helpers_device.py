"""A device that computes on the CPU and yet refuses CPU tensors, as a GPU does. Its name is "lazy:0"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = torch.device("lazy", 0)
aten = torch.ops.aten
BY_INDEX = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
BETWEEN = (*BY_INDEX, aten._to_copy.default, aten.copy_.default)
"""Operations that may see tensors of two devices: a tensor can be indexed with CPU indices, and copied."""


class Away(Tensor):
    """A tensor on the device; `inner` holds the numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=AWAY, requires_grad=False
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def far_device() -> Iterator[torch.device]:
    """While the block runs "lazy" is a device with numbers: .to("lazy") goes there, .cpu() comes back."""
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) then goes through the mode as well
    try:
        with _Mode():
            yield AWAY
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    away = [x for x in leaves if isinstance(x, Away)]
    here = [x for x in leaves if not isinstance(x, Away) and x.dim() > 0]
    asked = kwargs.get("device")
    there = bool(away) if asked is None else torch.device(asked).type == AWAY.type
    if func is aten.copy_.default or func in BY_INDEX:
        there = isinstance(args[0], Away)
    mixed = bool(away and here) and func not in BETWEEN
    if mixed or (func in BY_INDEX and away and not there):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")

    def plain(x: Any) -> Any:
        if isinstance(x, Away):
            return x.inner
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == AWAY.type else x

    found = func(*tree_map(plain, args), **tree_map(plain, kwargs))
    if not there:
        return found
    known = {id(x.inner): x for x in away}
    return tree_map(lambda x: (Away(x) if id(x) not in known else known[id(x)]) if isinstance(x, Tensor) else x, found)
