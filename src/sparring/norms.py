"""Pure functions per norm: exact projection, steepest step, sampling and distance, inside a box.

Perturbations are flat, shape (N, D). `lo` <= 0 <= `hi` (N, D) say how far each coordinate may move before it
leaves the box; `eps` is a float or one value per image (N,). "Exact" means the Euclidean projection onto the
*intersection* of ball and box, and the maximiser of a linear function over that intersection. l0 counts
coordinates (features), so `eps` is then a whole number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.budget import NORMS as NORMS
from sparring.errors import InputError, unknown
from sparring.rng import Streams


def checked(norm: str) -> str:
    """`norm` itself, or `InputError` with the known names."""
    if norm not in NORMS:
        raise InputError(unknown("norm", norm, list(NORMS)))
    return norm


def distance(delta: Tensor, norm: str) -> Tensor:
    """‖delta‖ of every row, measured in float64, shape (N,)."""
    flat = delta.detach().flatten(1).double().abs()
    if flat.shape[1] == 0:
        return flat.new_zeros(flat.shape[0])
    if norm == "linf":
        return flat.amax(1)
    if norm == "l2":
        return flat.square().sum(1).sqrt()
    return flat.sum(1) if norm == "l1" else (flat > 0).sum(1).double()


def project(delta: Tensor, eps: float | Tensor, norm: str, lo: Tensor, hi: Tensor) -> Tensor:
    """The point of ball ∩ box nearest to `delta` in the Euclidean norm, shape (N, D)."""
    radius = _column(eps, delta)
    if norm == "linf":
        return delta.clamp(torch.maximum(lo, -radius), torch.minimum(hi, radius))
    clipped = delta.clamp(lo, hi)
    over = distance(clipped, norm) > radius.flatten()
    if not over.any():
        return clipped
    row, room = delta[over], _room(delta[over], lo[over], hi[over])
    size = row.abs()
    if norm == "l2":
        moved = torch.minimum(size * _water_level(size, room, radius[over]), room)
    elif norm == "l1":
        wide = size.double()
        kept = torch.minimum((wide - _soft_threshold(wide, room.double(), radius[over].double())).clamp_min(0), room)
        moved = kept.to(size.dtype)
    else:
        capped = torch.minimum(size, room)
        gain = size.square() - (size - capped).square()
        moved = capped * _largest(gain, radius[over])
    result = clipped.clone()
    result[over] = moved * row.sign()
    return result


def steepest_step(grad: Tensor, eps: float | Tensor, norm: str, lo: Tensor, hi: Tensor) -> Tensor:
    """Argmax of grad·delta over ball ∩ box, shape (N, D); infinite `lo`/`hi` mean no box.

    linf: each coordinate to its end. l2: water-filling, clip(t·grad) with the t that spends the budget.
    l1: the largest slopes first, each until the box stops it. l0: the eps coordinates with the largest gain
    (that needs a finite box). Coordinates with zero gradient stay.
    """
    radius = _column(eps, grad)
    slope, room = grad.abs(), _room(grad, lo, hi)
    room = torch.where(slope > 0, room, torch.zeros_like(room))
    if norm == "linf":
        moved = torch.minimum(room, radius)
    elif norm == "l2":
        slope = slope / slope.amax(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
        moved = torch.minimum(slope * _water_level(slope, room, radius), room)
    elif norm == "l1":
        moved = _fill_steepest_first(slope, room, radius)
    else:
        if not bool(room.isfinite().all()):
            raise InputError("the steepest l0 step needs finite bounds: the box limits how far a pixel may go")
        moved = room * _largest(slope * room, radius)
    return moved * grad.sign()


def shortest_step(grad: Tensor, gain: Tensor, norm: str, lo: Tensor, hi: Tensor) -> Tensor:
    """The shortest delta in the box with grad·delta = `gain` (N,), shape (N, D): the way to a hyperplane.

    Where the box does not reach so far, the corner that comes nearest. linf, l2 and l1: the dual of `steepest_step`.
    linf and l2 go as t·|grad|^0 and t·|grad| until the box stops a coordinate; what a t gains is concave in t, so
    Newton's method rises to the solution. l1: the steepest coordinates first.
    """
    need = gain.to(grad.dtype).reshape(-1, 1)
    slope, room = grad.abs(), _room(grad * need.sign(), lo, hi)
    top = slope.amax(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    slope, want = slope / top, (need.abs() / top).clamp_max(torch.finfo(slope.dtype).max)
    room = torch.where(slope > 0, room, torch.zeros_like(room))
    if norm == "l1":
        moved = _fill_until(slope, room, want)
    else:
        moved = _rise_until(slope, torch.ones_like(slope) if norm == "linf" else slope, room, want)
    return moved * grad.sign() * need.sign()


def spread_step(grad: Tensor, size: float | Tensor, norm: str, room: Tensor, share: float | Tensor) -> Tensor:
    """A step of an iterative attack, where the steepest step would be too greedy, shape (N, D).

    linf and l2: the unboxed steepest step. l1: SLIDE (Tramèr & Boneh 2019), equal steps on the `share` of
    coordinates with the largest gradient that still have room. l0: the gradient scaled so that its
    largest coordinate moves by `size` (the projection then keeps the best few).
    """
    step = _column(size, grad)
    if norm == "linf":
        return step * grad.sign()
    scaled = grad / grad.abs().amax(1, keepdim=True).clamp_min(torch.finfo(grad.dtype).tiny)
    if norm == "l2":
        return step * scaled / scaled.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
    if norm == "l0":
        return step * scaled
    usable = torch.where(room > 0, scaled.abs(), torch.zeros_like(scaled))
    count = (_column(share, grad) * grad.shape[1]).round().clamp_min(1).long()
    least = usable.topk(int(count.max()), dim=1).values.gather(1, count - 1)  # far cheaper than ranks
    chosen = ((usable >= least) & (usable > 0)).to(grad.dtype)
    return step * scaled.sign() * chosen / chosen.sum(1, keepdim=True).clamp_min(1)


def shrink(delta: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    """The point of the ball nearest to `delta` in the Euclidean norm, shape (N, D), with no box to mind: every
    coordinate moves towards 0, so that a perturbation inside a box stays inside. Cheaper than `project`.
    """
    radius = _column(eps, delta)
    if norm == "linf":
        return delta.clamp(-radius, radius)
    if norm == "l2":
        total = delta.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(delta.dtype).tiny)
        return delta * (radius / total).clamp_max(1)
    size = delta.abs()
    if norm == "l1":
        return (size - _simplex_threshold(size, radius)).clamp_min(0) * delta.sign()
    most = min(int(radius.max()), delta.shape[1]) if len(delta) else 0
    order = size.topk(most, dim=1).indices
    kept = (torch.arange(most, device=delta.device) < radius).to(delta.dtype)
    return delta * torch.zeros_like(delta).scatter_(1, order, kept)


def sample(streams: Streams, eps: float | Tensor, norm: str, lo: Tensor, hi: Tensor) -> Tensor:
    """A uniform draw from the ball over the coordinates that have room, then clipped to the box, shape (N, D).

    l0: eps random coordinates, each uniform over its room. Every row takes the same number of draws from its stream,
    whether its coordinates have room or not.
    """
    d = lo.shape[1]
    radius, free = _column(eps, lo), (hi > lo).to(lo.dtype)
    if norm == "linf":
        drawn = (2 * streams.uniform((d,), lo) - 1) * radius
    elif norm == "l2":
        direction = streams.normal((d,), lo) * free
        direction = direction / direction.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        dimensions = free.sum(1, keepdim=True).clamp_min(1)
        drawn = direction * streams.uniform((1,), lo) ** (1 / dimensions) * radius
    elif norm == "l1":
        sizes = streams.exponential((d + 1,), lo)
        signs = streams.integers(2, (d,), lo) * 2 - 1
        inside = sizes[:, :d] * free
        drawn = signs * inside / (inside.sum(1, keepdim=True) + sizes[:, d:]) * radius
    else:
        movable = streams.uniform((d,), lo) * free
        drawn = (lo + (hi - lo) * streams.uniform((d,), lo)) * _largest(movable, radius)
    return drawn.clamp(lo, hi)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """`values` (N,) or (N, M) shaped to multiply, or choose in, `like` (N, ...)."""
    return values.reshape(*values.shape, *[1] * (like.dim() - values.dim()))


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    column = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1)
    return column.expand(like.shape[0], 1)


def _room(direction: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    return torch.where(direction > 0, hi, -lo).clamp_min(0)


def _largest(values: Tensor, counts: Tensor) -> Tensor:
    """1 on the `counts` (N, 1) largest entries of each row (first ones on ties), else 0."""
    order = values.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(values.shape[1], device=values.device).expand_as(order)
    )
    return (rank < counts).to(values.dtype)


def _water_level(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """T (N, 1) with ‖min(t·size, room)‖₂ = radius, or large enough to fill the room if that is smaller.

    Active set from below: with the saturated set of the last t frozen, the next t can only fall short, so the
    sequence rises to the solution, stays feasible and ends after finitely many (in practice a few) rounds.
    """
    total = size.square().sum(1, keepdim=True).sqrt()
    level = torch.where(total > 0, radius / total.clamp_min(torch.finfo(size.dtype).tiny), torch.zeros_like(total))
    for _ in range(size.shape[1] + 1):
        full = size * level >= room
        spent = torch.where(full, room, torch.zeros_like(room)).square().sum(1, keepdim=True)
        free = torch.where(full, torch.zeros_like(size), size).square().sum(1, keepdim=True)
        left = (radius.square() - spent).clamp_min(0)
        rise = torch.where(free > 0, (left / free.clamp_min(torch.finfo(size.dtype).tiny)).sqrt(), level)
        if not bool((rise > level * (1 + 1e-6)).any()):
            break
        level = torch.maximum(level, rise)
    return level


def _simplex_threshold(size: Tensor, radius: Tensor) -> Tensor:
    """λ (N, 1) >= 0 with Σ max(size - λ, 0) = radius, 0 where the sum is smaller (Michelot 1986).

    The mean excess of the coordinates above the last λ can only fall short, so λ rises to the solution.
    """
    level = torch.zeros_like(radius)
    for _ in range(size.shape[1] + 1):
        above = torch.where(size > level, size, torch.zeros_like(size))
        rise = (above.sum(1, keepdim=True) - radius) / (above > 0).sum(1, keepdim=True).clamp_min(1)
        if not bool((rise > level * (1 + 1e-6)).any()):
            break
        level = torch.maximum(level, rise)
    return level


def _soft_threshold(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """float64 λ (N, 1) with Σ min(max(size - λ, 0), room) = radius; the sum falls piecewise linearly in λ."""
    points = torch.cat([size, size - room], 1)
    turns = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1)
    points, order = points.sort(dim=1, descending=True, stable=True)
    slope = turns.gather(1, order).cumsum(1)
    gaps = points[:, :-1] - points[:, 1:]
    reached = torch.cat([torch.zeros_like(points[:, :1]), (slope[:, :-1] * gaps).cumsum(1)], 1)
    at = (reached < radius).sum(1, keepdim=True).clamp(1, points.shape[1] - 1) - 1
    missing = radius - reached.gather(1, at)
    threshold = points.gather(1, at) - missing / slope.gather(1, at).clamp_min(1)
    return threshold.clamp_min(0)


def _rise_until(slope: Tensor, speed: Tensor, room: Tensor, want: Tensor) -> Tensor:
    """min(t·speed, room) with the least t >= 0 for which slope·min(t·speed, room) = want; all of `room` if none is."""
    level, moved = torch.zeros_like(want), torch.zeros_like(room)
    rate = slope * speed
    for _ in range(slope.shape[1] + 1):
        missing = want - (slope * moved).sum(1, keepdim=True)
        free = torch.where(moved < room, rate, torch.zeros_like(rate)).sum(1, keepdim=True)
        if not bool(((missing > 1e-6 * want) & (free > 0)).any()):
            break
        rise = (missing / free.clamp_min(torch.finfo(free.dtype).tiny)).clamp_min(0)
        level = (level + rise).clamp_max(torch.finfo(level.dtype).max)
        moved = torch.minimum(level * speed, room)
    return moved


def _fill_until(slope: Tensor, room: Tensor, want: Tensor) -> Tensor:
    """The steepest coordinates to the end of their `room`, the last one in part: slope·result = want."""
    order = slope.argsort(dim=1, descending=True, stable=True)
    sorted_slope = slope.gather(1, order)
    gain = sorted_slope * room.gather(1, order)
    before = torch.cat([torch.zeros_like(want), gain.cumsum(1)[:, :-1]], 1)
    moved = torch.minimum(gain, (want - before).clamp_min(0)) / sorted_slope.clamp_min(torch.finfo(slope.dtype).tiny)
    return torch.zeros_like(room).scatter_(1, order, moved)


def _fill_steepest_first(slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    order = slope.argsort(dim=1, descending=True, stable=True)
    sorted_room = room.gather(1, order)
    before = torch.cat([torch.zeros_like(radius), sorted_room.cumsum(1)[:, :-1]], 1)
    filled = torch.minimum(sorted_room, (radius - before).clamp_min(0))
    return torch.zeros_like(room).scatter_(1, order, filled)
