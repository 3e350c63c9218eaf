"""ONNX operators as torch functions: those that image classifiers are made of. Opsets 7 and later.

Every function takes the attributes and the input tensors (None where one is left out) and gives one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import UnsupportedError

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda attributes, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda attributes, x, y: function(x, y)


def _edges(attributes: Attributes, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """How much padding a convolution or a pooling wants before and after each axis."""
    spatial = x.dim() - 2
    mode = attributes.get("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = attributes.get("pads") or [0] * (2 * spatial)
        return pads[:spatial], pads[spatial:]
    strides, dilations = (attributes.get(name) or [1] * spatial for name in ("strides", "dilations"))
    begins, ends = [], []
    for i, size in enumerate(x.shape[2:]):
        reach = dilations[i] * (kernel[i] - 1) + 1
        total = max(0, (math.ceil(size / strides[i]) - 1) * strides[i] + reach - size)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins, ends


def _padded(
    attributes: Attributes, x: Tensor, kernel: Sequence[int], fill: float, most: Sequence[int] | None = None
) -> tuple[Tensor, list[int]]:
    """`x`, and the padding left for the operator itself: what is the same on both sides, up to `most`."""
    begins, ends = _edges(attributes, x, kernel)
    if begins == ends and (most is None or all(b <= m for b, m in zip(begins, most, strict=True))):
        return x, begins
    amounts = [n for pair in zip(reversed(begins), reversed(ends), strict=True) for n in pair]
    return functional.pad(x, amounts, value=fill), [0] * len(begins)


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    run = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[x.dim()]
    strides, dilations = (attributes.get(name) or 1 for name in ("strides", "dilations"))
    padded, padding = _padded(attributes, x, weight.shape[2:], 0.0)
    return run(padded, weight, bias, strides, padding, dilations, attributes.get("group", 1))


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    padded, padding = _padded(attributes, x, kernel, -math.inf, [side // 2 for side in kernel])
    strides, dilations = (attributes.get(name) or 1 for name in ("strides", "dilations"))
    ceil = bool(attributes.get("ceil_mode", 0))
    return functional.max_pool2d(padded, kernel, strides, padding, dilations, ceil_mode=ceil)


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    if attributes.get("ceil_mode", 0) or any(d != 1 for d in attributes.get("dilations", [])):
        raise UnsupportedError("AveragePool with ceil_mode or dilations")
    kernel, strides = attributes["kernel_shape"], attributes.get("strides") or 1
    counted = bool(attributes.get("count_include_pad", 0))
    most = [side // 2 for side in kernel]
    padded, padding = _padded(attributes, x, kernel, 0.0, most)
    sums = functional.avg_pool2d(padded, kernel, strides, padding, count_include_pad=counted)
    if counted or padded is x:
        return sums
    ones, _ = _padded(attributes, torch.ones_like(x[:1, :1]), kernel, 0.0, most)
    return sums / functional.avg_pool2d(ones, kernel, strides)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return torch.addmm(torch.zeros(1).to(a) if c is None else c, a, b, alpha=alpha, beta=beta)


def _batch_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if attributes.get("training_mode", 0):
        raise UnsupportedError("BatchNormalization in training mode")
    return functional.batch_norm(x, mean, var, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = attributes.get("axis", -1) % x.dim()
    return functional.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def _clip(attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    lowest = attributes.get("min") if low is None else float(low)
    highest = attributes.get("max") if high is None else float(high)
    return x if lowest is None and highest is None else x.clamp(lowest, highest)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sides = [int(side) for side in shape]
    if not attributes.get("allowzero", 0):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _axes(attributes: Attributes, axes: Tensor | None) -> list[int] | None:
    return attributes.get("axes") if axes is None else [int(axis) for axis in axes]


def _squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attributes, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attributes, axes) or []
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _mean(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attributes, axes) or list(range(x.dim()))
    return x.mean(chosen, keepdim=bool(attributes.get("keepdims", 1)))


def _pad(attributes: Attributes, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, *_: Any) -> Tensor:
    if attributes.get("mode", "constant") != "constant" or _:
        raise UnsupportedError("Pad other than with a constant")
    amounts = attributes["pads"] if pads is None else [int(amount) for amount in pads]
    half = len(amounts) // 2
    pairs = [n for i in reversed(range(half)) for n in (amounts[i], amounts[i + half])]
    return functional.pad(x, pairs, value=attributes.get("value", 0.0) if value is None else float(value))


def _softmax(attributes: Attributes, x: Tensor, log: bool = False) -> Tensor:
    run = functional.log_softmax if log else functional.softmax
    axis = attributes.get("axis")
    if attributes["opset"] >= 13:
        return run(x, dim=-1 if axis is None else axis)
    start = (1 if axis is None else axis) % x.dim()  # before opset 13: over all axes from this one on
    return run(x.flatten(start), dim=-1).view_as(x)


def _gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.dim()
    places = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    chosen = x.index_select(axis, places.reshape(-1))
    return chosen.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _slice(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    chosen = range(len(starts)) if axes is None else [int(axis) % x.dim() for axis in axes]
    for i, axis in enumerate(chosen):
        step = 1 if steps is None else int(steps[i])
        if step < 1:
            raise UnsupportedError("Slice with a negative step")
        size = x.shape[axis]
        places = torch.arange(size, device=x.device)[slice(int(starts[i]), int(ends[i]), step)]
        x = x.index_select(axis, places)
    return x


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
    if attributes["to"] not in kinds:
        raise UnsupportedError(f"Cast to ONNX type {attributes['to']}")
    return x.to(kinds[attributes["to"]])


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=attributes.get("approximate", "none"))


OPERATORS: dict[str, Operator] = {
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Constant": lambda attributes: _constant(attributes),
    "Conv": _conv,
    "Div": _binary(lambda x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")),
    "Dropout": lambda attributes, x, *_: x,
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)),
    "GlobalMaxPool": _unary(lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)),
    "HardSigmoid": lambda attributes, x: (attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(lambda x: x),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "LogSoftmax": lambda attributes, x: _softmax(attributes, x, log=True),
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "PRelu": _binary(lambda x, slope: torch.where(x < 0, slope * x, x)),
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "ReduceMean": _mean,
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Shape": _unary(lambda x: torch.tensor(x.shape, device=x.device)),
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Transpose": lambda attributes, x: x.permute(attributes.get("perm") or tuple(reversed(range(x.dim())))),
    "Unsqueeze": _unsqueeze,
}  # fmt: skip


def _constant(attributes: Attributes) -> Tensor:
    if isinstance(attributes.get("value"), Tensor):
        return attributes["value"]  # type: ignore[no-any-return]
    kinds = {"value_int": torch.int64, "value_ints": torch.int64, "value_float": None, "value_floats": None}
    for name, kind in kinds.items():
        if name in attributes:
            return torch.tensor(attributes[name], dtype=kind or torch.float32)
    raise UnsupportedError("Constant of an unusual kind")
