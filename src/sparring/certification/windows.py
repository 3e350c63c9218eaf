"""The second convolution of a network sees a small window of the picture: lines are drawn back through that alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.certification.curves import ReLU
from sparring.certification.layers import Conv, Input, Interval, Layer, Scale
from sparring.certification.region import Domain

Lower = Callable[[list[Layer], list[Interval], int, Tensor, Domain, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Windows:
    """A convolution after a ReLU after a convolution of what the picture's pixels are scaled to; `source` is the place
    of the scaled pixels. Its values at one position depend on `size` pixels, `step` apart from position to position.
    """

    first: Conv
    place: int
    last: Conv
    source: int

    @property
    def size(self) -> tuple[int, int]:
        """Pixels along each axis."""
        kernels, strides = (self.first.weight.shape[2:], self.last.weight.shape[2:]), self.first.stride
        return tuple((k2 - 1) * s + k1 for k1, k2, s in zip(*kernels, strides, strict=True))  # type: ignore[return-value]

    def pixels(self, x: Tensor) -> Tensor:
        """The windows of the picture, (N, P, C, h, w); zeros around it, as the convolutions see it."""
        first, last = self.first, self.last
        step = tuple(a * b for a, b in zip(first.stride, last.stride, strict=True))
        around = [p2 * s + p1 for p1, p2, s in zip(first.padding, last.padding, first.stride, strict=True)]
        return _unfolded(x, self.size, step, around, last.shape[1:])

    def hidden(self, x: Tensor) -> Tensor:
        """The windows of the first convolution's result, (N, P, C, h, w), zeros around."""
        last = self.last
        return _unfolded(x, tuple(last.weight.shape[2:]), last.stride, last.padding, last.shape[1:])

    def layers(self) -> list[Layer]:
        """What leads from a window's pixels to the input of the last convolution."""
        shape = (self.first.shape[0], *self.last.weight.shape[2:])
        pixels = (self.first.before[0], *self.size)
        one, nothing = (1, 1), (0, 0)
        first = self.first
        conv = Conv((0,), shape, "", first.weight, first.bias, first.stride, nothing, one, 1, pixels)
        return [Input((), pixels, ""), conv, ReLU((1,), shape, "")]


def windowed(layers: list[Layer], place: int, norm: str) -> Windows | None:
    """The windows of layer `place`, where it is of that kind."""
    last = layers[place]
    if not _plain(last):
        return None
    relu = layers[last.inputs[0]]
    middle = relu.inputs[0] if isinstance(relu, ReLU) and relu.slopes is None else -1
    first = layers[middle]
    if middle < 0 or not _plain(first):
        return None
    source = first.inputs[0]
    pixel = source
    while isinstance(layers[pixel], Scale):
        pixel = layers[pixel].inputs[0]
    if not isinstance(layers[pixel], Input) or (pixel != source and norm != "linf"):
        return None
    return Windows(first, middle, last, source)  # type: ignore[arg-type]


def _plain(layer: Layer) -> bool:
    return isinstance(layer, Conv) and layer.groups == 1 and layer.dilation == (1, 1)


def cost(windows: Windows, open_: Tensor) -> tuple[float, float]:
    """Coefficients to be touched by way of windows, and by way of whole pictures for each of the values (N, D) that are
    `open_`.
    """
    last, first = windows.last, windows.first
    positions = open_.view(len(open_), last.shape[0], -1).any(1).sum()
    inside = last.weight.numel()
    whole = first.shape[0] * first.shape[1] * first.shape[2]
    return float(positions) * inside, float(open_.sum()) * whole


def tightened(
    windows: Windows, known: list[Interval], open_: Tensor, domain: Domain, most: int, lower_bound: Lower
) -> Interval:
    """Bounds (N, D) of all values of the last convolution at positions where one is `open_`, infinite elsewhere; `most`
    numbers in a tensor.
    """
    last, layers = windows.last, windows.layers()
    channels = last.shape[0]
    wanted = open_.view(len(open_), channels, -1).any(1)  # (N, P)
    picked = wanted.flatten().nonzero().flatten()
    pixels = [windows.pixels(end).flatten(0, 1)[picked] for end in known[windows.source]]
    hidden = [windows.hidden(end).flatten(0, 1)[picked] for end in known[windows.place]]
    images = windows.pixels(domain.images).flatten(0, 1)[picked] if domain.norm == "l2" else pixels[0]
    eps = domain.eps.unsqueeze(1).expand(-1, wanted.shape[1]).flatten()[picked]
    both = torch.cat([last.weight, -last.weight]).unsqueeze(0)
    bias = last.weight.new_zeros(channels) if last.bias is None else last.bias
    first = torch.cat([bias, -bias]).unsqueeze(0)
    found = []
    for part in torch.arange(len(picked), device=open_.device).split(max(1, most // both.numel())):  # type: ignore[no-untyped-call]
        here = Domain(images[part], pixels[0][part], pixels[1][part], domain.norm, eps[part])
        ends = [(pixels[0][part], pixels[1][part]), (hidden[0][part], hidden[1][part])]
        found.append(lower_bound(layers, ends, 2, both, here, first.expand(len(part), -1)))
    rows = torch.cat(found) if found else bias.new_zeros((0, 2 * channels))
    least, top = (bias.new_full((wanted.numel(), channels), end) for end in (-torch.inf, torch.inf))
    least[picked], top[picked] = rows[:, :channels], -rows[:, channels:]
    shaped = [end.view(*wanted.shape, channels).transpose(1, 2).reshape(len(open_), -1) for end in (least, top)]
    return shaped[0], shaped[1]


def _unfolded(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...] | list[int],
    grid: tuple[int, ...],
) -> Tensor:
    """Windows (N, P, C, h, w) of pictures (N, C, H, W) at the first `grid` positions."""
    padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    wide = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])  # (N, C, rows, columns, h, w)
    wide = wide[:, :, : grid[0], : grid[1]].permute(0, 2, 3, 1, 4, 5)
    return wide.flatten(1, 2)
