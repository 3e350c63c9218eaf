"""What a network is made of here: its value, the interval it maps an interval to, and how a bound passes back.

A bound from below is a row of coefficients A with a constant: A·y + c holds everywhere in the region. `pull` replaces
y by the layer's inputs. Coefficients have the shape (N or 1, R, *shape), constants (N or 1, R).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

Interval = tuple[Tensor, Tensor]
Pulled = tuple[list[Tensor], Tensor | float]
Units = tuple[Tensor, Tensor | float]
"""Coefficients (values, *shape of the input) and constants (values,) of every value of a linear layer."""

FEW = 4
"""Channels up to which a transposed convolution is added up by hand."""
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}
"""Relative widening of an interval at every affine layer, for the rounding of the sums."""


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """One operation; `inputs` are places of earlier layers, `shape` is that of one image's result."""

    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    where: str

    @abstractmethod
    def value(self, *xs: Tensor) -> Tensor:
        """The operation itself on a batch."""

    @abstractmethod
    def interval(self, *xs: Interval) -> Interval:
        """Bounds of the result, element by element."""

    @abstractmethod
    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """Coefficients per input, and the constant that comes with them."""


def widened(mid: Tensor, rad: Tensor) -> Tensor:
    """The radius with what rounding may add to sums of this size."""
    return rad + ROUNDING.get(mid.dtype, 1e-6) * (mid.abs() + rad)


@dataclass(frozen=True, eq=False)
class Input(Layer):
    """The images."""

    def value(self, *xs: Tensor) -> Tensor:
        """The images."""
        return xs[0]

    def interval(self, *xs: Interval) -> Interval:
        """Their region."""
        return xs[0]

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """Nothing lies before."""
        return [], 0.0


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """y = x Wᵀ + b on the last dimension; weight (out, in)."""

    weight: Tensor
    bias: Tensor | None

    @cached_property
    def units(self) -> Units:
        """Every value as a row of coefficients of what goes in, and its constant."""
        return _units(self, self.weight)

    def value(self, *xs: Tensor) -> Tensor:
        """The product."""
        return functional.linear(xs[0], self.weight, self.bias)

    def interval(self, *xs: Interval) -> Interval:
        """Midpoint through W, radius through |W|."""
        mid, rad = (xs[0][0] + xs[0][1]) / 2, (xs[0][1] - xs[0][0]) / 2
        centre = functional.linear(mid, self.weight, self.bias)
        reach = functional.linear(widened(mid, rad), self.weight.abs())
        return centre - reach, centre + reach

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """A W, and A b."""
        return [a @ self.weight], 0.0 if self.bias is None else _total(a * self.bias)


@dataclass(frozen=True, eq=False)
class Conv(Layer):
    """A convolution with zeros around; `before` is the shape of its input."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    before: tuple[int, ...]

    @cached_property
    def units(self) -> Units:
        """Every value as a row of coefficients of what goes in, and its constant."""
        return _units(self, self.weight)

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def value(self, *xs: Tensor) -> Tensor:
        """The convolution."""
        return self._conv(xs[0], self.weight, self.bias)

    def interval(self, *xs: Interval) -> Interval:
        """Midpoint through the kernel, radius through its absolute values."""
        mid, rad = (xs[0][0] + xs[0][1]) / 2, (xs[0][1] - xs[0][0]) / 2
        centre = self._conv(mid, self.weight, self.bias)
        reach = self._conv(widened(mid, rad), self.weight.abs(), None)
        return centre - reach, centre + reach

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """The transposed convolution."""
        constant = 0.0 if self.bias is None else _total(a.sum((3, 4)) * self.bias)
        if self.groups == 1 and self.dilation == (1, 1) and self.before[0] <= FEW:
            return [self._added_up(a)], constant
        kernel, (height, width) = self.weight.shape[2:], self.before[1:]
        missing = [
            size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
            for size, out, s, p, d, k in zip(
                (height, width), a.shape[3:], self.stride, self.padding, self.dilation, kernel, strict=True
            )
        ]
        back = functional.conv_transpose2d(
            a.flatten(0, 1), self.weight, None, self.stride, self.padding, missing, self.groups, self.dilation
        )
        return [back.view(*a.shape[:2], *back.shape[1:])], constant

    def _added_up(self, a: Tensor) -> Tensor:
        """The transposed convolution to a few channels: a matrix product, its results added up kernel place by kernel
        place. Twice as fast as torch's, which likes many channels.
        """
        (out, c, kh, kw), (n, r), (h, w) = self.weight.shape, a.shape[:2], a.shape[3:]
        taps = (self.weight.reshape(out, -1).T @ a.reshape(n * r, out, -1)).view(n * r, c, kh, kw, h, w)
        (height, width), (sh, sw), (ph, pw) = self.before[1:], self.stride, self.padding
        wide = a.new_zeros(n * r, c, height + 2 * ph, width + 2 * pw)
        for i in range(kh):
            for j in range(kw):
                wide[:, :, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw] += taps[:, :, i, j]
        return wide[:, :, ph : ph + height, pw : pw + width].reshape(n, r, *self.before)


def _units(layer: Layer, like: Tensor) -> Units:
    size = math.prod(layer.shape)
    back, constant = layer.pull(torch.eye(size, dtype=like.dtype, device=like.device).view(1, size, *layer.shape))
    return back[0][0], constant[0] if isinstance(constant, Tensor) else constant


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """y = factor · x + shift, element by element; both broadcast to one image's shape."""

    factor: Tensor
    shift: Tensor

    def value(self, *xs: Tensor) -> Tensor:
        """The line."""
        return xs[0] * self.factor + self.shift

    def interval(self, *xs: Interval) -> Interval:
        """The ends, exchanged where the factor is negative."""
        mid, rad = (xs[0][0] + xs[0][1]) / 2, (xs[0][1] - xs[0][0]) / 2
        centre, reach = mid * self.factor + self.shift, widened(mid, rad) * self.factor.abs()
        return centre - reach, centre + reach

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """The factor goes to the coefficients, the shift to the constant."""
        return [a * self.factor], _total(a * self.shift)


@dataclass(frozen=True, eq=False)
class Gather(Layer):
    """A linear map without negative coefficients: reshape, permutation, padding with zeros, slices, means."""

    apply: Callable[[Tensor], Tensor]
    before: tuple[int, ...]

    def value(self, *xs: Tensor) -> Tensor:
        """The map."""
        return self.apply(xs[0])

    def interval(self, *xs: Interval) -> Interval:
        """The ends go where they go."""
        low, high = self.apply(xs[0][0]), self.apply(xs[0][1])
        slack = ROUNDING.get(low.dtype, 1e-6) * torch.maximum(low.abs(), high.abs())
        return low - slack, high + slack

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """The transposed map."""
        flat = a.flatten(0, 1)
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            zeros = flat.new_zeros((len(flat), *self.before)).requires_grad_()
            (back,) = torch.autograd.grad((self.apply(zeros) * flat).sum(), zeros, create_graph=learning)
        return [back.view(*a.shape[:2], *back.shape[1:])], 0.0


@dataclass(frozen=True, eq=False)
class Sum(Layer):
    """y = Σ signᵢ · xᵢ of equal or broadcast shapes, as in a residual connection."""

    signs: tuple[float, ...]
    before: tuple[tuple[int, ...], ...]

    def value(self, *xs: Tensor) -> Tensor:
        """The sum."""
        total = self.signs[0] * xs[0]
        for sign, x in zip(self.signs[1:], xs[1:], strict=True):
            total = total + sign * x
        return total

    def interval(self, *xs: Interval) -> Interval:
        """The ends, exchanged under a minus."""
        lows = [s * (low if s >= 0 else high) for s, (low, high) in zip(self.signs, xs, strict=True)]
        highs = [s * (high if s >= 0 else low) for s, (low, high) in zip(self.signs, xs, strict=True)]
        return sum(lows[1:], lows[0]), sum(highs[1:], highs[0])

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """The same coefficients for every term."""
        back = [(s * a).sum_to_size(*a.shape[:2], *shape) for s, shape in zip(self.signs, self.before, strict=True)]
        return back, 0.0


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """Results side by side along `dim` (counted with the batch)."""

    dim: int
    sizes: tuple[int, ...]

    def value(self, *xs: Tensor) -> Tensor:
        """Side by side."""
        return torch.cat(xs, self.dim)

    def interval(self, *xs: Interval) -> Interval:
        """Both ends side by side."""
        return torch.cat([x[0] for x in xs], self.dim), torch.cat([x[1] for x in xs], self.dim)

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """Each gets its part."""
        return list(torch.split(a, list(self.sizes), self.dim + 1)), 0.0


def bent(a: Tensor, neg: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Positive coefficients times the slope `below`, negative ones (`neg`) times that `above`, with few passes."""
    return (a * below).addcmul_(neg, above - below)


def summed(a: Tensor, values: Tensor) -> Tensor:
    """Σ A·values: (N or 1, R, *shape) and (N or 1, *shape) to (N, R)."""
    rows, column = a.flatten(2), values.flatten(1)
    if len(rows) == 1:
        return column @ rows[0].T
    return torch.bmm(rows, column.unsqueeze(2).expand(len(rows), -1, -1)).squeeze(2)


def _total(rows: Tensor) -> Tensor:
    return rows.flatten(2).sum(2)
