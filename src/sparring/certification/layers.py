"""What a network is made of here: its value, the interval it maps an interval to, and how a bound passes back.

A bound from below is a row of coefficients A with a constant: A·y + c holds everywhere in the region. `pull` replaces
y by the layer's inputs. Coefficients have the shape (N or 1, R, *shape), constants (N or 1, R).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Interval = tuple[Tensor, Tensor]
Pulled = tuple[list[Tensor], Tensor | float]

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
    return rad + ROUNDING.get(mid.dtype, 1e-6) * mid.abs()


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
        taps = (self.weight.view(out, -1).T @ a.reshape(n * r, out, -1)).view(n * r, c, kh, kw, h, w)
        (height, width), (sh, sw), (ph, pw) = self.before[1:], self.stride, self.padding
        wide = a.new_zeros(n * r, c, height + 2 * ph, width + 2 * pw)
        for i in range(kh):
            for j in range(kw):
                wide[:, :, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw] += taps[:, :, i, j]
        return wide[:, :, ph : ph + height, pw : pw + width].reshape(n, r, *self.before)


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


@dataclass(frozen=True, eq=False)
class MaxPool(Layer):
    """The maximum of each window.

    Below: the input whose interval lies highest. Above, with m the highest lower end:
    m + Σ (uᵢ - m)/(uᵢ - lᵢ)·(xᵢ - lᵢ) over the inputs that can exceed m, or the constant max u where that is
    lower at the midpoint.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    before: tuple[int, ...]

    def value(self, *xs: Tensor) -> Tensor:
        """The maxima."""
        return functional.max_pool2d(xs[0], self.kernel, self.stride, self.padding)

    def interval(self, *xs: Interval) -> Interval:
        """Those of both ends."""
        return self.value(xs[0][0]), self.value(xs[0][1])

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """Negative coefficients take the line above, positive ones the input that lies highest."""
        return self.pull_through(a, xs[0], None)

    @property
    def apart(self) -> bool:
        """Windows that tile the picture: no need to add up."""
        sides = zip(self.before[1:], self.kernel, strict=True)
        return self.kernel == self.stride and not any(self.padding) and all(n % k == 0 for n, k in sides)

    def pull_through(self, a: Tensor, x: Interval, lines: tuple[Tensor, Tensor, Tensor] | None) -> Pulled:
        """`pull` past an activation that comes before, too, given by the slope of its line below, without a constant,
        and slope and constant of its line above (N, C, H, W). No slope is negative, so that where windows lie `apart` a
        coefficient keeps its sign, and both lines can be taken at once.
        """
        low, high = (self._windows(end, -1e30) for end in x)
        best = (low + high).argmax(2, keepdim=True)
        chosen = torch.zeros_like(low).scatter_(2, best, 1.0)
        floor, top = low.amax(2, keepdim=True), high.amax(2, keepdim=True)
        over = high > floor
        width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        slope = torch.where(over, (high - floor) / width, torch.zeros_like(low)).clamp(0, 1)
        flat = (torch.where(over, high - floor, torch.zeros_like(low)).sum(2, keepdim=True) / 2) > top - floor
        slope = torch.where(flat, torch.zeros_like(slope), slope)
        above = torch.where(flat, top, floor).squeeze(2) - (slope * low).where(over, torch.zeros_like(low)).sum(2)
        if lines is not None:
            below, chord, rise = (self._windows(part, 0.0) for part in lines)
            above = above + (slope * rise).sum(2)
            chosen, slope = chosen * below, slope * chord
        neg = a.clamp_max(0)
        constant = summed(neg, above)
        if self.apart:
            maps = [self._spread(part) for part in (chosen, slope)]
            wide = a.repeat_interleave(self.kernel[1], 4).unsqueeze(4)  # (N, R, C, H, 1, w): rows of some length
            found = bent(wide, wide.clamp_max(0), maps[0], maps[1])
            return [found.view(len(maps[0]), a.shape[1], *self.before)], constant
        rows, down = (part.flatten(3).unsqueeze(3) for part in (a, neg))
        return [self._folded(bent(rows, down, chosen.unsqueeze(1), slope.unsqueeze(1)))], constant

    def _windows(self, x: Tensor, outside: float) -> Tensor:
        """The windows' contents, (N, C, K, L)."""
        if self.apart:
            (c, h, w), (kh, kw) = x.shape[1:], self.kernel
            blocks = x.reshape(len(x), c, h // kh, kh, w // kw, kw).permute(0, 1, 3, 5, 2, 4)
            return blocks.reshape(len(x), c, kh * kw, -1)
        pad = (self.padding[1], self.padding[1], self.padding[0], self.padding[0])
        wide = functional.pad(x, pad, value=outside) if any(self.padding) else x
        columns = functional.unfold(wide, self.kernel, stride=self.stride)
        return columns.view(len(x), x.shape[1], -1, columns.shape[2])

    def _spread(self, windows: Tensor) -> Tensor:
        """Contents of windows that tile the picture (N, C, K, L), where they come from: (N, 1, C, H, kh, w)."""
        (h, w), (kh, kw) = self.before[1:], self.kernel
        blocks = windows.reshape(len(windows), 1, -1, kh, kw, h // kh, w // kw)
        return blocks.permute(0, 1, 2, 5, 3, 6, 4).flatten(5)

    def _folded(self, spread: Tensor) -> Tensor:
        """Contents of windows (N, R, C, K, L) added up where they come from."""
        n, r, c, k, places = spread.shape
        rows = spread.reshape(n * r, c * k, places)
        back = functional.fold(rows, self.before[1:], self.kernel, padding=self.padding, stride=self.stride)
        return back.view(n, r, *back.shape[1:])


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
