"""Bounds of every layer: intervals forward (IBP, Gowal et al. 2018), lines backward (CROWN, Zhang et al. 2018)."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator

import torch
from torch import Tensor

from sparring.certification import windows
from sparring.certification.blocks import block_at
from sparring.certification.curves import Curve, ReLU
from sparring.certification.layers import Conv, Dense, Input, Interval, Layer, Scale, Units
from sparring.certification.pooling import MaxPool
from sparring.certification.region import Domain, slack

MEMORY, IN_CACHE = 2**25, 2**22
"""Numbers in the largest tensor of coefficients, on an accelerator and on a CPU: what rows and images are cut into
pieces for. A CPU is twice as fast with tensors that its caches and its allocator hold.
"""
ROWS = 64
"""Values of a layer that are tightened together at most: images with fewer open ones then drop out sooner."""
WORK = 4096
"""A layer with more values than this keeps its interval bounds: to tighten each by a pass of its own costs too much."""


def intervals(layers: list[Layer], domain: Domain) -> list[Interval]:
    """Interval bounds of every layer."""
    found: list[Interval] = []
    for layer in layers:
        found.append(layer.interval(*_given(layer, found, domain)))
    return found


def _given(layer: Layer, found: list[Interval], domain: Domain) -> list[Interval]:
    return [found[i] for i in layer.inputs] or [(domain.lower, domain.upper)]


def lower_bound(
    layers: list[Layer], known: list[Interval], start: int, a: Tensor, domain: Domain, first: Tensor | None = None
) -> Tensor:
    """A lower bound (N, R) of A·y + `first`, where y is the result of layer `start` and A is (N or 1, R, *shape).

    Lines are drawn over the intervals `known`. The bound is lowered for rounding.
    """
    waiting: dict[int, Tensor] = {start: a}
    constant: Tensor = a.new_zeros((len(domain.images), a.shape[1])) if first is None else first
    heard = constant.abs()
    for place in range(start, 0, -1):
        if place not in waiting:
            continue
        layer, rows = layers[place], waiting.pop(place)
        inputs = layer.inputs
        extra: Tensor | float
        relu, block = layers[inputs[0]], block_at(layers, place)
        if block is not None:
            moved, extra = block.pull(rows, known)
            back, inputs = [moved], block.conv.inputs
        elif isinstance(layer, MaxPool) and layer.apart and isinstance(relu, ReLU) and relu.slopes is None:
            back, extra = layer.pull_through(rows, known[inputs[0]], relu.lines(known[relu.inputs[0]]))
            inputs = relu.inputs
        else:
            back, extra = layer.pull(rows, *(known[i] for i in inputs))
        constant = constant + extra
        heard = heard + (extra.abs() if isinstance(extra, Tensor) else abs(extra))
        for i, part in zip(inputs, back, strict=True):
            waiting[i] = waiting[i] + part if i in waiting else part
    if 0 not in waiting:
        return constant
    rows = waiting[0]
    return constant + domain.least(rows) - slack(a.dtype) * (domain.magnitude(rows) + heard).detach()


def tightened(layers: list[Layer], domain: Domain, work: int = WORK) -> list[Interval]:
    """Interval bounds of every layer, those before an activation or a maximum tightened by lines back to the input.

    A layer with more than `work` values keeps its intervals.
    """
    loose, found = set(_loose(layers, domain.norm)), list[Interval]()
    for place, layer in enumerate(layers):
        found.append(layer.interval(*_given(layer, found, domain)))
        if place in loose and math.prod(layer.shape) <= work:
            found[place] = _tighter(layers, found, place, domain)
    return found


def kept(layers: list[Layer], norm: str, work: int) -> list[Layer]:
    """The layers that are too large for `tightened`."""
    return [layers[place] for place in _loose(layers, norm) if math.prod(layers[place].shape) > work]


def _loose(layers: list[Layer], norm: str) -> Iterator[int]:
    """Places of layers before an activation or a maximum whose intervals are not exact already."""
    bent = {layer.inputs[0] for layer in layers if isinstance(layer, (Curve, ReLU, MaxPool))}
    for place, layer in enumerate(layers):
        exact = norm == "linf" and _one_mix(layers[: place + 1])
        mixes = not isinstance(layer, (Input, Curve, ReLU))  # an activation's result is as tight as what goes into it
        if place in bent and mixes and not exact:
            yield place


def most_numbers(like: Tensor) -> int:
    """How large a tensor of coefficients should be at most, where `like` is."""
    return IN_CACHE if like.device.type == "cpu" else MEMORY


def _one_mix(layers: list[Layer]) -> bool:
    """Intervals lose nothing through a single layer that adds pixels up."""
    return sum(not isinstance(layer, (Input, Scale)) for layer in layers) <= 1


def _tighter(layers: list[Layer], known: list[Interval], place: int, domain: Domain) -> Interval:
    """The interval of layer `place`, tightened image by image where its users can tell the difference."""
    low, high = (end.flatten(1).clone() for end in known[place])
    open_ = (low < 0) & (high > 0) if _only_signs(layers, place) else torch.ones_like(low, dtype=torch.bool)
    near = windows.windowed(layers, place, domain.norm)
    if near is not None and operator.lt(*windows.cost(near, open_)):
        ends = windows.tightened(near, known, open_, domain, most_numbers(low), lower_bound)
        return _where(open_, known[place], *ends)
    counts, order = open_.sum(1), open_.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    widest = max(math.prod(layer.shape) for layer in layers[: place + 1])
    rows = max(1, min(ROWS, most_numbers(low) // (2 * widest * len(low))))
    units = _units(layers, place)
    for start in range(0, int(counts.max()), rows):
        still = (counts > start).nonzero().flatten()
        part, some = order[still, start : min(start + rows, int(counts.max()))], domain.select(still)
        mine = [(a[still], b[still]) for a, b in known]
        least, most = _both_ends(layers, mine, place, units, part, some)
        low[still] = low[still].scatter(1, part, torch.maximum(low[still].gather(1, part), least))
        high[still] = high[still].scatter(1, part, torch.minimum(high[still].gather(1, part), most))
    return _where(open_, known[place], low, high)


def _where(open_: Tensor, before: Interval, low: Tensor, high: Tensor) -> Interval:
    """The interval `before` with the tighter ends (N, D) where it is `open_`: what is known of an image does not depend
    on the others of its batch, with which it shares passes.
    """
    low = torch.maximum(before[0], low.where(open_, -torch.inf).view_as(before[0]))
    high = torch.minimum(before[1], high.where(open_, torch.inf).view_as(before[1]))
    return low, torch.maximum(low, high)  # equal up to rounding


def _units(layers: list[Layer], place: int) -> Units | None:
    """Every value of a linear layer as a row of coefficients of what goes into it, with its constant; None where that
    is no linear layer, or too large to be kept.
    """
    layer, size = layers[place], math.prod(layers[place].shape)
    if not isinstance(layer, (Dense, Conv)) or size * max(size, math.prod(layers[layer.inputs[0]].shape)) > MEMORY:
        return None
    return layer.units


def _both_ends(
    layers: list[Layer], known: list[Interval], place: int, units: Units | None, part: Tensor, domain: Domain
) -> Interval:
    """Bounds (N, R) from below and above of the values `part` (N, R) of layer `place`."""
    if units is None:
        size = math.prod(layers[place].shape)
        unit = domain.images.new_zeros((*part.shape, size)).scatter_(2, part.unsqueeze(2), 1)
        both = torch.cat([unit, -unit], 1).view(len(part), -1, *layers[place].shape)
        found = lower_bound(layers, known, place, both, domain)
    else:
        rows, constant = units
        unit = rows[part]
        offset = constant[part] if isinstance(constant, Tensor) else part.new_zeros(part.shape).to(unit.dtype)
        both, first = torch.cat([unit, -unit], 1), torch.cat([offset, -offset], 1)
        found = lower_bound(layers, known, layers[place].inputs[0], both, domain, first)
    least, most = found.chunk(2, 1)
    return least, -most


def _only_signs(layers: list[Layer], place: int) -> bool:
    """Only ReLUs look at this layer: where the sign is certain, a tighter bound changes nothing."""
    users = [layer for layer in layers if place in layer.inputs]
    return all(isinstance(user, ReLU) for user in users)


def rivals(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """Rows z_label - z_j for every other class j, (N, classes - 1, classes)."""
    eye = torch.eye(classes, dtype=like.dtype, device=like.device)
    others = torch.arange(classes - 1, device=like.device).expand(len(labels), -1)
    others = others + (others >= labels.unsqueeze(1)).long()
    return eye[labels].unsqueeze(1) - eye[others]


def margins(layers: list[Layer], known: list[Interval], labels: Tensor, domain: Domain, method: str) -> Tensor:
    """Lower bounds of z_label - z_j, (N, classes - 1). "ibp": by intervals through all but the last affine layer."""
    rows = rivals(labels, layers[-1].shape[0], domain.images)
    if method != "ibp":
        each = rows.shape[1] if torch.is_grad_enabled() else _fitting(layers, domain)
        parts = rows.split(each, 1)  # type: ignore[no-untyped-call]
        return torch.cat([lower_bound(layers, known, len(layers) - 1, part, domain) for part in parts], 1)
    back, extra = layers[-1].pull(rows, *(known[i] for i in layers[-1].inputs))
    total: Tensor = rows.new_zeros(rows.shape[:2]) + extra
    for i, part in zip(layers[-1].inputs, back, strict=True):
        low, high = (end.flatten(1) for end in known[i])
        a = part.flatten(2)
        mid, rad = (low + high) / 2, (high - low) / 2
        total = total + torch.einsum("nrd,nd->nr", a, mid) - torch.einsum("nrd,nd->nr", a.abs(), rad)
        loss = torch.einsum("nrd,nd->nr", a.abs(), torch.maximum(low.abs(), high.abs())).detach()
        total = total - slack(rows.dtype) * loss
    return total


def with_better_slopes(
    layers: list[Layer], known: list[Interval], labels: Tensor, domain: Domain, steps: int
) -> Tensor:
    """`margins`, with the lower lines of the ReLUs chosen by gradient ascent, row by row (Xu et al. 2021).

    Any slope in [0, 1] is sound, so the best bound seen counts.
    """
    rows = rivals(labels, layers[-1].shape[0], domain.images)
    parts = rows.split(_fitting(layers, domain), 1)  # type: ignore[no-untyped-call]
    return torch.cat([_ascended(layers, known, part, domain, steps) for part in parts], 1)


def _fitting(layers: list[Layer], domain: Domain) -> int:
    """Rows of coefficients that fit, for all images of `domain` at once, into the memory meant for them."""
    widest = max(math.prod(layer.shape) for layer in layers)
    return max(1, most_numbers(domain.images) // (widest * len(domain.images)))


def _ascended(layers: list[Layer], known: list[Interval], rows: Tensor, domain: Domain, steps: int) -> Tensor:
    best = lower_bound(layers, known, len(layers) - 1, rows, domain)
    slopes = {i: _start(known[layers[i].inputs[0]], rows.shape[1]) for i in _relus(layers)}
    if not slopes or not steps:
        return best
    optimizer = torch.optim.Adam(slopes.values(), lr=0.1)
    for _ in range(steps):
        with torch.enable_grad():
            chosen = [
                dataclasses.replace(layer, slopes=slopes[i]) if isinstance(layer, ReLU) else layer
                for i, layer in enumerate(layers)
            ]
            found = lower_bound(chosen, known, len(layers) - 1, rows, domain)
            optimizer.zero_grad()
            (-found.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for slope in slopes.values():
            slope.data.clamp_(0, 1)
        best = torch.maximum(best, found.detach())
    return best


def _relus(layers: list[Layer]) -> Iterator[int]:
    return (i for i, layer in enumerate(layers) if isinstance(layer, ReLU))


def _start(known: Interval, rows: int) -> Tensor:
    low, high = known
    begin = (high > -low).to(low.dtype).unsqueeze(1)
    return begin.expand(-1, rows, *begin.shape[2:]).clone().requires_grad_()
