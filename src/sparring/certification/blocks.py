"""A convolution, a ReLU and perhaps a maximum of windows that tile, passed backward in one step.

A coefficient of one pooled value ends at the few pixels that its window's convolution sees, along one of two ways: by
the lines below where it is positive, by those above where it is negative. Both ways are laid down as a small matrix per
image and position, so that a row of coefficients needs a matrix product and sums of overlapping patches, and nothing of
the size of the convolution's result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.certification.curves import ReLU
from sparring.certification.layers import FEW, Conv, Interval, Layer
from sparring.certification.pooling import MaxPool

MOST = 2**23
"""Numbers in the matrices of one image from which on a block is passed layer by layer."""


@dataclass(frozen=True, eq=False)
class Block:
    """`pool` (None: there is none) of `relu` of `conv`; `place` of what goes into the ReLU, `pooled` of what goes into
    the maximum.
    """

    pool: MaxPool | None
    relu: ReLU
    conv: Conv
    place: int
    pooled: int

    @property
    def window(self) -> tuple[int, int]:
        """Of the maximum."""
        return (1, 1) if self.pool is None else self.pool.kernel

    @property
    def step(self) -> tuple[int, int]:
        """Pixels from one position to the next."""
        return tuple(k * s for k, s in zip(self.window, self.conv.stride, strict=True))  # type: ignore[return-value]

    @property
    def patch(self) -> tuple[int, int]:
        """Pixels that one position sees, along each axis."""
        kernel = self.conv.weight.shape[2:]
        sides = zip(self.window, self.conv.stride, kernel, strict=True)
        return tuple((w - 1) * s + k for w, s, k in sides)  # type: ignore[return-value]

    @property
    def numbers(self) -> int:
        """In the matrices of one image."""
        positions = math.prod(self.relu.shape[1:]) // math.prod(self.window)
        return positions * (math.prod(self.patch) * self.conv.before[0] + 1) * 2 * self.relu.shape[0]

    def pull(self, a: Tensor, known: list[Interval]) -> tuple[Tensor, Tensor]:
        """Coefficients (N, R, C', H', W') of what goes into the convolution, and the constant (N, R)."""
        (h, w), r, ways = a.shape[3:], a.shape[1], self._ways(known)
        placed = a.expand(len(ways), *a.shape[1:]).permute(0, 3, 4, 2, 1).reshape(-1, a.shape[2], r)
        n = len(ways)
        found = torch.bmm(ways.flatten(0, 1), _both_signs(placed)).view(n, h, w, -1, r)
        return self._added_up(found[:, :, :, :-1]), found[:, :, :, -1].sum((1, 2))

    def _ways(self, known: list[Interval]) -> Tensor:
        """From positive and negative coefficients to a patch and a constant: (N, P, patch + 1, 2 C)."""
        lines = self.relu.lines(known[self.place])
        if self.pool is None:
            (below, chord, rise), low = lines, known[self.place][0]
            up, down = (part.view(*low.shape[:2], 1, -1) for part in (below, chord))
            above = rise.flatten(2)
        else:
            up, down, above = self.pool.ways(known[self.pooled], lines)
        kernels = self._kernels()
        parts = [torch.einsum("nckp,ckt->nptc", part, kernels) for part in (up, down)]
        lift = torch.zeros_like(parts[1])
        lift[:, :, -1] = above.transpose(1, 2)
        return torch.cat([parts[0], parts[1] + lift], 3)

    def _kernels(self) -> Tensor:
        """The kernel at every place of the window, in the patch: (C, K, patch + 1), last the bias."""
        weight, (sy, sx) = self.conv.weight, self.conv.stride
        (out, c, kh, kw), (wh, ww) = weight.shape, self.window
        wide = weight.new_zeros(out, wh * ww, *self.patch, c)
        for i in range(wh):
            for j in range(ww):
                wide[:, i * ww + j, i * sy : i * sy + kh, j * sx : j * sx + kw] = weight.permute(0, 2, 3, 1)
        bias = weight.new_zeros(out) if self.conv.bias is None else self.conv.bias
        return torch.cat([wide.flatten(2), bias.view(-1, 1, 1).expand(-1, wh * ww, 1)], 2)

    def _added_up(self, found: Tensor) -> Tensor:
        """Patches (N, h, w, patch · C', R) added up where they overlap: (N, R, C', H', W')."""
        (n, h, w), r = found.shape[:3], found.shape[4]
        (c, height, width), (py, px), (dy, dx) = self.conv.before, self.patch, self.step
        (ph, pw) = self.conv.padding
        wide = found.new_zeros(n, height + 2 * ph, width + 2 * pw, c, r)
        for i in range(py):
            for j in range(px):
                part = found[:, :, :, (i * px + j) * c : (i * px + j + 1) * c]
                wide[:, i : i + dy * (h - 1) + 1 : dy, j : j + dx * (w - 1) + 1 : dx] += part
        return wide[:, ph : ph + height, pw : pw + width].permute(0, 4, 3, 1, 2)


def _both_signs(a: Tensor) -> Tensor:
    """The positive part above the negative one, (B, 2 C, R)."""
    if torch.is_grad_enabled():
        return torch.cat([a.clamp_min(0), a.clamp_max(0)], 1)
    c = a.shape[1]
    both = a.new_empty(len(a), 2 * c, a.shape[2])
    torch.clamp_min(a, 0, out=both[:, :c])
    torch.clamp_max(a, 0, out=both[:, c:])
    return both


def block_at(layers: list[Layer], place: int) -> Block | None:
    """The block that ends with layer `place`; None where there is none, or where it would not be faster."""
    last = layers[place]
    pool = last if isinstance(last, MaxPool) and last.apart else None
    at = last.inputs[0] if pool is not None else place
    relu = layers[at]
    if not isinstance(relu, ReLU) or relu.slopes is not None:
        return None
    conv = layers[relu.inputs[0]]
    if not isinstance(conv, Conv) or conv.groups != 1 or conv.dilation != (1, 1):
        return None
    if conv.before[0] > FEW:
        return None
    block = Block(pool, relu, conv, relu.inputs[0], at)
    return block if block.numbers <= MOST else None
