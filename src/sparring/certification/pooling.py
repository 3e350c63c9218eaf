"""Max pooling between two lines, alone or together with the ReLU before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.certification.layers import Interval, Layer, Pulled, bent, summed


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
        chosen, slope, above = self.ways(x, lines)
        neg = a.clamp_max(0)
        constant = summed(neg, above)
        if self.apart:
            maps = [self._spread(part) for part in (chosen, slope)]
            wide = a.repeat_interleave(self.kernel[1], 4).unsqueeze(4)  # (N, R, C, H, 1, w): rows of some length
            found = bent(wide, wide.clamp_max(0), maps[0], maps[1])
            return [found.view(len(maps[0]), a.shape[1], *self.before)], constant
        rows, down = (part.flatten(3).unsqueeze(3) for part in (a, neg))
        return [self._folded(bent(rows, down, chosen.unsqueeze(1), slope.unsqueeze(1)))], constant

    def ways(self, x: Interval, lines: tuple[Tensor, Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """What a positive and what a negative coefficient is multiplied with on its way to each value of its window,
        both (N, C, K, L), and the constant of the latter (N, C, L); `lines` as for `pull_through`.
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
        return chosen, slope, above

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
