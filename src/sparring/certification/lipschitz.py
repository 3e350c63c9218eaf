"""Lipschitz-margin certificates (Tsuzuku et al. 2018, arXiv:1802.04034) with upper bounds of true operator norms.

A proven bound is needed, so nothing here is a power iteration, which comes from below. A dense matrix has its largest
singular value. A convolution with zeros around is a part of a circular one on the padded picture, whose norm is the
largest singular value over all frequencies (Sedghi et al. 2019); a stride becomes channels first. In linf the norm is
the largest sum of absolute weights that reach one value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sparring.certification.curves import Curve, ReLU
from sparring.certification.layers import Concat, Conv, Dense, Gather, Input, Layer, Scale, Sum
from sparring.certification.pooling import MaxPool
from sparring.errors import UnsupportedError

SAFE = 1 + 1e-6
"""For the rounding of the decompositions, done in float64."""


def lipschitz(layers: list[Layer], norm: str) -> list[float]:
    """For every layer an upper bound of ‖its result at x - that at x'‖ / ‖x - x'‖, in l2 or linf."""
    found: list[float] = []
    for layer in layers:
        before = [found[i] for i in layer.inputs]
        found.append(1.0 if isinstance(layer, Input) else _together(layer, before, norm) * SAFE)
    return found


def pair_bounds(layers: list[Layer], norm: str) -> Tensor:
    """(classes, classes): upper bounds of the Lipschitz constant of z_i - z_j. Where the last layer is a matrix W they
    are ‖w_i - w_j‖ (dual norm) times the bound before it, never more than √2 times (linf: twice) that of all logits.
    """
    bounds, last = lipschitz(layers, norm), layers[-1]
    if isinstance(last, Dense) and len(last.shape) == 1:
        weight = last.weight.double()
        size = torch.cdist(weight, weight, 2.0 if norm == "l2" else 1.0, "donot_use_mm_for_euclid_dist")
        return size * bounds[last.inputs[0]] * SAFE
    classes = last.shape[0]
    return torch.full((classes, classes), bounds[-1] * (math.sqrt(2) if norm == "l2" else 2.0), dtype=torch.float64)


def radii(margins: Tensor, labels: Tensor, pairs: Tensor) -> Tensor:
    """Min over rivals of margin / Lipschitz constant, (N,), from logits (N, classes); negative where it is wrong."""
    apart = (margins.gather(1, labels.unsqueeze(1)) - margins).double()
    apart = apart / pairs.to(apart.device)[labels].clamp_min(1e-300)
    return apart.scatter(1, labels.unsqueeze(1), math.inf).amin(1)


def _together(layer: Layer, before: list[float], norm: str) -> float:
    if isinstance(layer, Sum):
        if any(shape != layer.shape for shape in layer.before):
            raise UnsupportedError(f"no Lipschitz bound for a sum of different shapes in {layer.where}")
        return float(sum(abs(s) * b for s, b in zip(layer.signs, before, strict=True)))
    if isinstance(layer, Concat):
        return math.sqrt(sum(b * b for b in before)) if norm == "l2" else max(before)
    return before[0] * alone(layer, norm)


def alone(layer: Layer, norm: str) -> float:
    """An upper bound of the norm of one operation with one input, in l2 or linf."""
    if isinstance(layer, Dense):
        weight = layer.weight.detach().double()
        return float(torch.linalg.matrix_norm(weight, 2) if norm == "l2" else weight.abs().sum(1).max())
    if isinstance(layer, Conv):
        return conv_norm(layer) if norm == "l2" else float(layer.weight.detach().double().abs().flatten(1).sum(1).max())
    if isinstance(layer, Scale):
        return float(layer.factor.detach().double().abs().max())
    if isinstance(layer, ReLU):
        return 1.0
    if isinstance(layer, Curve):
        return layer.form.slope
    if isinstance(layer, MaxPool):
        return 1.0 if norm == "linf" else math.sqrt(math.prod(_overlap(layer.kernel, layer.stride)))
    if isinstance(layer, Gather):
        return _gather_norm(layer, norm)
    raise UnsupportedError(f"no Lipschitz bound for {type(layer).__name__} in {layer.where}")


def _overlap(kernel: tuple[int, int], stride: tuple[int, int]) -> list[int]:
    """In how many windows a value can stand, per axis."""
    return [-(-k // s) for k, s in zip(kernel, stride, strict=True)]


def _gather_norm(layer: Gather, norm: str) -> float:
    """A linear map without negative coefficients: its row and column sums bound it, ‖M‖₂² ≤ ‖M‖₁·‖M‖∞."""
    ones = torch.ones((1, *layer.before), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        rows = layer.apply(ones)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    across = float(rows.detach().max())
    return across if norm == "linf" else math.sqrt(across * float(columns.max()))


def conv_norm(layer: Conv) -> float:
    """An upper bound of the largest singular value of the convolution on its picture."""
    weight = layer.weight.detach().double()
    if layer.groups == len(weight):  # a channel each: the largest one counts
        return float(_spectrum(layer, weight).norm(dim=3).max())
    return max(_largest(_spectrum(layer, part)) for part in weight.chunk(layer.groups))


def _largest(spectrum: Tensor) -> float:
    """The largest singular value of matrices (H, W, M, N)."""
    if min(spectrum.shape[2:]) == 1:
        return float(spectrum.flatten(2).norm(dim=2).max())
    return float(torch.linalg.matrix_norm(spectrum, 2).max())


def _spectrum(layer: Conv, weight: Tensor) -> Tensor:
    """The matrix of every frequency of a circular convolution that holds the layer, (H, W, out, in)."""
    weight = _spread(weight, layer.dilation)
    size = [n + 2 * p for n, p in zip(layer.before[1:], layer.padding, strict=True)]
    (sh, sw), (kh, kw) = layer.stride, weight.shape[2:]
    weight = functional.pad(weight, (0, -kw % sw, 0, -kh % sh))  # a stride turns blocks of pixels into channels
    out, inner, kh, kw = weight.shape
    blocks = weight.view(out, inner, kh // sh, sh, kw // sw, sw).permute(0, 1, 3, 5, 2, 4)
    blocks = blocks.reshape(out, inner * sh * sw, kh // sh, kw // sw)
    if blocks.shape[2:] == (1, 1):  # the same matrix for every frequency
        return blocks.permute(2, 3, 0, 1)
    height, width = (max(-(-n // s) + k - 1, k) for n, s, k in zip(size, layer.stride, blocks.shape[2:], strict=True))
    spectrum: Tensor = torch.fft.rfft2(blocks, (height, width))
    return spectrum.permute(2, 3, 0, 1)


def _spread(weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The kernel with the zeros of its dilation."""
    out, inner, kh, kw = weight.shape
    wide = weight.new_zeros(out, inner, (kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1)
    wide[:, :, :: dilation[0], :: dilation[1]] = weight
    return wide
