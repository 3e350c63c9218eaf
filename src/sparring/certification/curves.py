"""Activations: between two lines over an interval, soundly for every function with a bounded second derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.certification.layers import Interval, Layer, Pulled, bent, summed

SAMPLES = 24
Lines = tuple[Tensor, Tensor, Tensor, Tensor]
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """What the bounds of a function rest on: |f''| ≤ `curvature` wherever it exists, kinks only at `kinks`, and the
    place of its only minimum (None: it rises everywhere). `slope`: its largest absolute slope.
    """

    curvature: float
    slope: float
    kinks: tuple[float, ...] = ()
    lowest: float | None = None


@dataclass(frozen=True, eq=False)
class Curve(Layer):
    """An elementwise function."""

    apply: Function
    form: Shape

    def value(self, *xs: Tensor) -> Tensor:
        """The function."""
        return self.apply(xs[0])

    def interval(self, *xs: Interval) -> Interval:
        """Its ends where it rises; with one minimum that too."""
        low, high = xs[0]
        ends = self.apply(low), self.apply(high)
        if self.form.lowest is None:
            return ends
        place = low.new_full((), self.form.lowest)
        return self.apply(torch.maximum(low, torch.minimum(high, place))), torch.maximum(*ends)

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """Positive coefficients take the line below, negative ones that above."""
        below, low, above, high = self.lines(*xs[0])
        neg = a.clamp_max(0)
        constant = summed(a, low) + summed(neg, high - low)
        return [bent(a, neg, below.unsqueeze(1), above.unsqueeze(1))], constant

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """Slope and constant of a line below and of one above the function over [low, high].

        Of the chord's slope, those at both ends and at the middle, the one that lies nearest at the midpoint.
        """
        width = (high - low).clamp_min(1e-12)
        mid, chord = (low + high) / 2, (self.apply(high) - self.apply(low)) / width
        step = 1e-4
        slopes = [chord]
        for at in (low, high, mid):
            slopes.append((self.apply(at + step) - self.apply(at - step)) / (2 * step))
        points, slack = self._points(low, high)
        best: list[Tensor] = []
        for slope in slopes:
            gaps = [self.apply(x) - slope * x for x in points]
            floor, roof = gaps[0], gaps[0]
            for gap in gaps[1:]:
                floor, roof = torch.minimum(floor, gap), torch.maximum(roof, gap)
            floor, roof = floor - slack, roof + slack
            if not best:
                best = [slope, floor, slope, roof]
                continue
            lower = slope * mid + floor > best[0] * mid + best[1]
            upper = slope * mid + roof < best[2] * mid + best[3]
            best = [
                torch.where(lower, slope, best[0]),
                torch.where(lower, floor, best[1]),
                torch.where(upper, slope, best[2]),
                torch.where(upper, roof, best[3]),
            ]
        return best[0], best[1], best[2], best[3]

    def _points(self, low: Tensor, high: Tensor) -> tuple[list[Tensor], Tensor | float]:
        """Where f - s·x is looked at, and how far it can lie beyond what is seen there: between two points at a
        distance h a function strays from its chord by at most curvature · h² / 8.
        """
        kinks = [torch.maximum(low, torch.minimum(high, low.new_full((), kink))) for kink in self.form.kinks]
        if self.form.curvature == 0:
            return [low, high, *kinks], 0.0
        inner = [low + (high - low) * (i / SAMPLES) for i in range(1, SAMPLES)]
        return [low, high, *kinks, *inner], self.form.curvature * ((high - low) / SAMPLES) ** 2 / 8


@dataclass(frozen=True, eq=False)
class ReLU(Layer):
    """max(x, 0). Above: the chord. Below: slope 1 where the interval reaches farther up than down, else 0 (Zhang et al.
    2018); `slopes`, where given, are those to use instead, (N or 1, R or 1, *shape) in [0, 1].
    """

    slopes: Tensor | None = None

    def value(self, *xs: Tensor) -> Tensor:
        """The positive part."""
        return xs[0].relu()

    def interval(self, *xs: Interval) -> Interval:
        """That of both ends."""
        return xs[0][0].relu(), xs[0][1].relu()

    def pull(self, a: Tensor, *xs: Interval) -> Pulled:
        """Positive coefficients take the line below, negative ones the chord."""
        below, chord, rise = self.lines(xs[0])
        below = below.unsqueeze(1)
        if self.slopes is not None:
            free = ((xs[0][0] < 0) & (xs[0][1] > 0)).unsqueeze(1)
            below = torch.where(free, self.slopes, below)
        neg = a.clamp_max(0)
        return [bent(a, neg, below, chord.unsqueeze(1))], summed(neg, rise)

    def lines(self, x: Interval) -> tuple[Tensor, Tensor, Tensor]:
        """The slope of the line below, which passes through 0, and slope and constant of the chord above."""
        down, up = x[0].clamp_max(0), x[1].clamp_min(0)
        chord = up / (up - down).clamp_min(torch.finfo(up.dtype).tiny)
        return (up > -down).to(up.dtype), chord, -chord * down


SMOOTH: dict[str, tuple[Function, Shape]] = {
    "sigmoid": (torch.sigmoid, Shape(0.0963, 0.25)),
    "tanh": (torch.tanh, Shape(0.7699, 1.0)),
    "silu": (torch.nn.functional.silu, Shape(0.5001, 1.1, (), -1.2784645)),
    "mish": (torch.nn.functional.mish, Shape(0.7, 1.09, (), -1.1924354)),
    "hardswish": (torch.nn.functional.hardswish, Shape(0.3334, 1.5, (-3.0, 3.0), -1.5)),
    "hardsigmoid": (torch.nn.functional.hardsigmoid, Shape(0.0, 1 / 6, (-3.0, 3.0))),
}
"""Name of the operation without parameters to function and shape."""
