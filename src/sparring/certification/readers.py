"""Which recorded operation becomes which layer: the table of what bounds can pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparring.certification.activations import ACTIVATIONS
from sparring.certification.layers import Concat, Conv, Dense, Gather, Layer, Scale, Sum
from sparring.certification.pooling import MaxPool
from sparring.certification.reading import Place, Reading
from sparring.errors import UnsupportedError


def _addmm(r: Reading) -> Layer:
    return r.made(Dense, (r.only(1),), weight=r.arg(2).t(), bias=r.arg(0))


def _mm(r: Reading) -> Layer:
    return r.made(Dense, (r.only(0),), weight=r.arg(1).t(), bias=None)


def _linear(r: Reading) -> Layer:
    return r.made(Dense, (r.only(0),), weight=r.arg(1), bias=r.arg(2))


def _convolution(r: Reading) -> Layer:
    place = r.only(0)
    weight, transposed = r.arg(1), r.arg(6)
    if transposed or weight.dim() != 4:
        raise UnsupportedError("a transposed or not two-dimensional convolution")
    stride, padding, dilation = (tuple(r.arg(i)) for i in (3, 4, 5))
    return r.made(
        Conv,
        (place,),
        weight=weight,
        bias=r.arg(2),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=r.arg(8),
        before=r.before(place),
    )


def _batch_norm(r: Reading) -> Layer:
    place = r.only(0)
    weight, bias, mean, var = (r.arg(i) for i in (1, 2, 3, 4))
    inference = r.step.name.endswith("no_training") or not r.arg(5)
    if not inference or mean is None:
        raise UnsupportedError("batch norm with the statistics of the batch")
    eps = r.arg(6 if r.step.name.endswith("no_training") else 7)
    factor = torch.rsqrt(var + eps) * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * factor
    sides = [1] * (len(r.shape) - 1)
    return r.made(Scale, (place,), factor=factor.view(-1, *sides), shift=shift.view(-1, *sides))


def _scale(r: Reading, place: int, factor: Any, shift: Any) -> Layer:
    made = [_of_one(torch.as_tensor(v, dtype=torch.float64 if isinstance(v, float) else None)) for v in (factor, shift)]
    whole = torch.zeros(()).expand(r.before(place))
    if any(tuple((whole + m.to("cpu")).shape) != r.before(place) for m in made):
        raise UnsupportedError("a constant that widens what it is applied to")
    return r.made(Scale, (place,), factor=made[0], shift=made[1])


def _of_one(constant: Tensor) -> Tensor:
    """A constant without the batch's dimension."""
    if constant.dim() > 0 and constant.shape[0] == 1 and constant.dim() > 1:
        return constant[0]
    return constant


def _add(r: Reading, sign: float = 1.0) -> Layer:
    first, second = r.arg(0), r.arg(1)
    sign *= float(r.step.kwargs.get("alpha", 1))
    if isinstance(first, Place) and isinstance(second, Place):
        inputs = (first.index, second.index)
        shapes = tuple(r.before(i) for i in inputs)
        return r.made(Sum, inputs, signs=(1.0, sign), before=shapes)
    if isinstance(first, Place):
        return _scale(r, first.index, 1.0, sign * second)
    return _scale(r, second.index, sign, first)


def _rsub(r: Reading) -> Layer:
    return _scale(r, r.only(0), -float(r.arg(2, 1)), r.arg(1) if isinstance(r.arg(1), Tensor) else float(r.arg(1)))


def _mul(r: Reading) -> Layer:
    first, second = r.arg(0), r.arg(1)
    if isinstance(first, Place) and isinstance(second, Place):
        raise UnsupportedError("a product of two things computed from the input")
    place, factor = (first.index, second) if isinstance(first, Place) else (second.index, first)
    return _scale(r, place, factor if isinstance(factor, Tensor) else float(factor), 0.0)


def _div(r: Reading) -> Layer:
    divisor = r.arg(1)
    return _scale(r, r.only(0), 1.0 / divisor, 0.0)


def _neg(r: Reading) -> Layer:
    return _scale(r, r.only(0), -1.0, 0.0)


def _reshape(r: Reading) -> Layer:
    place, shape = r.only(0), r.shape
    if math.prod(shape) != math.prod(r.before(place)) or r.step.shape[0] != 2:
        raise UnsupportedError("a reshape that mixes the images of a batch")
    return r.made(Gather, (place,), apply=lambda x: x.reshape(len(x), *shape), before=r.before(place))


def _over(r: Reading, how: Callable[..., Tensor]) -> Layer:
    place, dims, keep = r.only(0), r.arg(1), bool(r.arg(2, False))
    n = len(r.before(place)) + 1
    over = [d % n for d in dims] if dims else []
    if not over or 0 in over:
        raise UnsupportedError(f"a {how.__name__} over the batch")
    return r.made(Gather, (place,), apply=lambda x: how(x, over, keepdim=keep), before=r.before(place))


def _permute(r: Reading) -> Layer:
    place, order = r.only(0), list(r.arg(1))
    if order[0] != 0:
        raise UnsupportedError("a permutation that moves the batch")
    return r.made(Gather, (place,), apply=lambda x: x.permute(order), before=r.before(place))


def _transpose(r: Reading) -> Layer:
    place = r.only(0)
    first, second = (r.arg(i) % (len(r.shape) + 1) for i in (1, 2))
    if 0 in (first, second):
        raise UnsupportedError("a permutation that moves the batch")
    return r.made(Gather, (place,), apply=lambda x: x.transpose(first, second), before=r.before(place))


def _select(r: Reading) -> Layer:
    place, index = r.only(0), r.arg(2)
    dim = r.arg(1) % (len(r.before(place)) + 1)
    if dim == 0:
        raise UnsupportedError("one image of the batch")
    return r.made(Gather, (place,), apply=lambda x: x.select(dim, index), before=r.before(place))


def _slice(r: Reading) -> Layer:
    place, start, end, step = r.only(0), r.arg(2, None), r.arg(3, None), r.arg(4, 1)
    dim = r.arg(1, 0) % (len(r.shape) + 1)
    if dim == 0 and r.before(place) == r.shape and r.step.shape[0] == 2:
        return r.made(Gather, (place,), apply=lambda x: x, before=r.before(place))
    if dim == 0:
        raise UnsupportedError("a slice of the batch")
    index = [slice(None)] * (len(r.shape) + 1)
    index[dim] = slice(start, end, step)
    return r.made(Gather, (place,), apply=lambda x: x[tuple(index)], before=r.before(place))


def _pad(r: Reading) -> Layer:
    place, pad, value = r.only(0), list(r.arg(1)), float(r.arg(2, 0.0))
    if value != 0:
        raise UnsupportedError("padding with another number than zero")
    return r.made(Gather, (place,), apply=lambda x: functional.pad(x, pad), before=r.before(place))


def _avg_pool(r: Reading) -> Layer:
    place, given = r.only(0), [r.arg(i) for i in range(1, len(r.step.args))]
    return r.made(Gather, (place,), apply=lambda x: functional.avg_pool2d(x, *given), before=r.before(place))


def _adaptive_pool(r: Reading) -> Layer:
    place, size = r.only(0), r.arg(1)
    return r.made(Gather, (place,), apply=lambda x: functional.adaptive_avg_pool2d(x, size), before=r.before(place))


def _max_pool(r: Reading) -> Layer:
    place, kernel = r.only(0), _pair(r.arg(1))
    stride, padding = _pair(r.arg(2) or kernel), _pair(r.arg(3, (0, 0)))
    if _pair(r.arg(4, (1, 1))) != (1, 1) or r.arg(5, False) or len(r.before(place)) != 3:
        raise UnsupportedError("max pooling with dilation or ceil_mode")
    return r.made(MaxPool, (place,), kernel=kernel, stride=stride, padding=padding, before=r.before(place))


def _adaptive_max_pool(r: Reading) -> Layer:
    place, size = r.only(0), _pair(r.arg(1))
    before = r.before(place)
    if len(before) != 3 or any(n % k for n, k in zip(before[1:], size, strict=True)):
        raise UnsupportedError("adaptive max pooling to a size that does not divide what it pools")
    kernel = (before[1] // size[0], before[2] // size[1])
    return r.made(MaxPool, (place,), kernel=kernel, stride=kernel, padding=(0, 0), before=before)


def _pair(value: Any) -> tuple[int, int]:
    two = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    return (two[0], two[0]) if len(two) == 1 else (two[0], two[1])


def _cat(r: Reading) -> Layer:
    parts, dim = r.arg(0), r.arg(1, 0)
    dim %= len(r.shape) + 1
    if dim == 0 or not all(isinstance(part, Place) for part in parts):
        raise UnsupportedError("cat along the batch, or with a constant")
    inputs = tuple(part.index for part in parts)
    return r.made(Concat, inputs, dim=dim, sizes=tuple(r.before(i)[dim - 1] for i in inputs))


def _same(r: Reading) -> Layer:
    return r.made(Gather, (r.only(0),), apply=lambda x: x, before=r.before(r.only(0)))


READERS: dict[str, Callable[[Reading], Layer]] = {
    "aten.addmm": _addmm,
    "aten.mm": _mm,
    "aten.linear": _linear,
    "aten.convolution": _convolution,
    "aten.native_batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _batch_norm,
    "aten.cudnn_batch_norm": _batch_norm,
    "aten.add": _add,
    "aten.sub": partial(_add, sign=-1.0),
    "aten.rsub": _rsub,
    "aten.mul": _mul,
    "aten.div": _div,
    "aten.neg": _neg,
    "aten.mean": partial(_over, how=torch.mean),
    "aten.sum": partial(_over, how=torch.sum),
    "aten.transpose": _transpose,
    "aten.select": _select,
    "aten.permute": _permute,
    "aten.slice": _slice,
    "aten.constant_pad_nd": _pad,
    "aten.avg_pool2d": _avg_pool,
    "aten._adaptive_avg_pool2d": _adaptive_pool,
    "aten.max_pool2d_with_indices": _max_pool,
    "aten.adaptive_max_pool2d": _adaptive_max_pool,
    "aten.cat": _cat,
    **dict.fromkeys(("aten.view", "aten._unsafe_view", "aten.reshape", "aten.squeeze", "aten.unsqueeze"), _reshape),
    **dict.fromkeys(("aten.clone", "aten.alias", "aten.detach", "aten._to_copy", "aten.contiguous"), _same),
    **ACTIVATIONS,
}
"""Name of an operation to what makes a layer of it."""
HEEDED = {"aten.add": ("alpha",), "aten.sub": ("alpha",), "aten.gelu": ("approximate",)}
LAYOUT = ("memory_format", "layout", "device", "pin_memory", "non_blocking")
"""Keywords that change no values."""


def read(r: Reading) -> Layer:
    """The layer of a recorded operation. Raises `UnsupportedError` where bounds cannot pass it as it was called."""
    name, said = r.step.name, r.step.name.removeprefix("aten.")
    reader = READERS.get(name)
    if reader is None or not r.known():
        raise UnsupportedError(said)
    for key, value in r.step.kwargs.items():
        if value is not None and key not in (*LAYOUT, *HEEDED.get(name, ())):
            raise UnsupportedError(f"{said} with {key}={value!r}")
    try:
        return reader(r)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedError(f"{said} with such arguments ({type(error).__name__})") from error
