"""The threat model: an l_p ball inside a box, with an optional mask. The only home of projection and clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparring import norms
from sparring.budget import number_text, parse_number
from sparring.errors import InputError
from sparring.rng import Streams, digest


def rounded(bound: float, dtype: torch.dtype) -> float:
    """A bound as images of `dtype` can hold it: float32(-0.1) lies below -0.1 and is still inside the box."""
    return float(torch.tensor(bound, dtype=dtype))


def checked_bounds(bounds: Sequence[float]) -> tuple[float, float]:
    """The box as a pair of floats; `InputError` unless it is (low, high) with low < high."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise InputError(f"bounds must be a pair (low, high), got {bounds!r}")
    low, high = (parse_number(b, "bounds") for b in bounds)
    if not low < high:
        raise InputError(f"bounds must be (low, high) with low < high, got ({low:g}, {high:g})")
    return low, high


def in_box(candidates: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Bool (N,): finite and inside the box."""
    flat = candidates.flatten(1)
    low, high = (rounded(bound, flat.dtype) for bound in bounds)
    return flat.isfinite().all(1) & (flat >= low).all(1) & (flat <= high).all(1)


@runtime_checkable
class Threat(Protocol):
    """What the driver asks of a threat: what an attacker may do to an image, and a check of what he did.

    `ThreatModel` is one, `sparring.perturbations` holds others.
    """

    @property
    def norm(self) -> str:
        """Name of its kind: a norm, "patch", "spatial", ..."""

    @property
    def eps(self) -> float:
        """The budget, in the unit of its kind."""

    @property
    def eps_text(self) -> str:
        """The budget as people write it."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The box of the images."""

    def around(self, originals: Tensor) -> Region:
        """A region that holds all allowed points, for an attack to search in."""

    def contains(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """Bool (N,): an attacker may make this of the original."""

    def distance(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """What was spent of the budget, in the unit of `eps`, float64 (N,)."""

    def key(self) -> dict[str, Any]:
        """All that distinguishes it from other threats, as JSON."""


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ThreatModel:
    """All images within distance `eps` of the original and inside `bounds`.

    norm: "linf", "l2", "l1" or "l0" (number of changed features). eps: a float or a fraction such as "8/255",
    in the units of the images. mask: bool, broadcastable to one image (C, H, W); only where it is true may
    anything change. Raises `InputError` for anything else.

    >>> ThreatModel("linf", "8/255")
    ThreatModel(norm='linf', eps=8/255)
    """

    norm: str
    eps: float
    bounds: tuple[float, float] = (0.0, 1.0)
    mask: Tensor | None = None

    def __init__(
        self,
        norm: str,
        eps: float | int | str,
        bounds: Sequence[float] = (0.0, 1.0),
        mask: Tensor | None = None,
    ) -> None:
        number = parse_number(eps)
        if number < 0:
            raise InputError(f"eps must be >= 0, got {eps!r}")
        if norms.checked(norm) == "l0" and number != int(number):
            raise InputError(f"an l0 eps counts features and must be a whole number, got {eps!r}")
        box = checked_bounds(bounds)
        if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(f"mask must be a torch.bool tensor (true where pixels may change), got {got}")
        for name, value in (("norm", norm), ("eps", number), ("bounds", box), ("mask", mask)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        extra = "" if self.bounds == (0.0, 1.0) else f", bounds={self.bounds}"
        extra += "" if self.mask is None else f", mask={int(self.mask.sum())} of {self.mask.numel()}"
        return f"ThreatModel(norm={self.norm!r}, eps={self.eps_text}{extra})"

    @property
    def eps_text(self) -> str:
        """`eps` as people write it."""
        return number_text(self.eps)

    def with_eps(self, eps: float | str) -> ThreatModel:
        """The same threat with another budget."""
        return ThreatModel(self.norm, eps, self.bounds, self.mask)

    def around(self, originals: Tensor) -> Region:
        """The allowed region around a batch of images (N, C, H, W)."""
        return Region.build(self, originals)

    def project(self, originals: Tensor, candidates: Tensor) -> Tensor:
        """The allowed points nearest to `candidates` (Euclidean), same shape."""
        return self.around(originals).project(candidates)

    def steepest_step(self, originals: Tensor, grad: Tensor) -> Tensor:
        """The allowed perturbation delta that maximises grad·delta, same shape."""
        return self.around(originals).steepest_step(grad)

    def sample(self, originals: Tensor, streams: Streams) -> Tensor:
        """A random allowed point per image."""
        return self.around(originals).sample(streams)

    def distance(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """‖adversarial - original‖ per image in float64, shape (N,)."""
        return norms.distance(adversarials.double() - originals.double(), self.norm)

    def tolerance(self, originals: Tensor) -> float:
        """How far above `eps` a float32 candidate may measure: one part in 10⁶ plus what rounding x + delta
        to the nearest float32 can add, but no more than a hundredth of `eps`. l0 allows nothing.
        """
        if self.norm == "l0":
            return 0.0
        size = originals[0].numel() if len(originals) else 1
        ulp = 2.0**-23 * max(1e-6, *(abs(b) for b in self.bounds))
        spread = {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[self.norm]
        return min(1e-6 * self.eps + ulp * spread, 0.01 * self.eps)

    def contains(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """Bool (N,): finite, inside the box, unchanged where the mask forbids it, and within `eps`."""
        fits = in_box(adversarials, self.bounds)
        fits &= self.distance(originals, adversarials) <= self.eps + self.tolerance(originals)
        if self.mask is not None:
            moved = (adversarials != originals) & ~self.mask_for(originals)
            fits &= ~moved.flatten(1).any(1)
        return fits

    def key(self) -> dict[str, Any]:
        """Norm, eps, box and the digest of the mask."""
        mask = None if self.mask is None else digest(self.mask).hex()
        return {"norm": self.norm, "eps": self.eps, "bounds": self.bounds, "mask": mask}

    def mask_for(self, originals: Tensor) -> Tensor:
        """The mask broadcast to one image's shape, true everywhere without one; `InputError` if it does not fit."""
        shape = originals.shape[1:]
        if self.mask is None:
            return torch.ones(shape, dtype=torch.bool, device=originals.device)
        try:
            return self.mask.to(originals.device).broadcast_to(shape)
        except RuntimeError:
            raise InputError(
                f"mask of shape {tuple(self.mask.shape)} does not broadcast to images of shape {tuple(shape)}"
            ) from None


@dataclass(frozen=True, eq=False)
class Region:
    """Ball ∩ box around a batch. `lower` and `upper` bound each pixel (for linf they are the whole threat)."""

    originals: Tensor
    lower: Tensor
    upper: Tensor
    norm: str
    eps: float

    @classmethod
    def build(cls, threat: ThreatModel, originals: Tensor) -> Region:
        """Merge box, mask and, for linf, the ball into one pair of bounds, once per batch."""
        low, high = threat.bounds
        reach = threat.eps if threat.norm == "linf" else high - low
        lower = (originals - reach).clamp_min(low)
        upper = (originals + reach).clamp_max(high)
        if threat.mask is not None:
            mask = threat.mask_for(originals)
            lower, upper = lower.where(mask, originals), upper.where(mask, originals)
        return cls(originals, lower, upper, threat.norm, threat.eps)

    def select(self, mask: Tensor) -> Region:
        """The region of the images where `mask` is true, or at these places."""
        return Region(self.originals[mask], self.lower[mask], self.upper[mask], self.norm, self.eps)

    def project(self, candidates: Tensor) -> Tensor:
        """The nearest allowed points, same shape."""
        if self.norm == "linf":
            return torch.clamp(candidates, self.lower, self.upper)
        lo, hi = self._offsets()
        delta = norms.project((candidates - self.originals).flatten(1), self.eps, self.norm, lo, hi)
        return self._apply(delta)

    def steepest_step(self, grad: Tensor) -> Tensor:
        """The allowed perturbation with the largest grad·delta, same shape."""
        lo, hi = self._offsets()
        return norms.steepest_step(grad.flatten(1), self.eps, self.norm, lo, hi).view_as(self.originals)

    def advance(self, points: Tensor, grad: Tensor, size: float | Tensor, share: float | Tensor = 0.05) -> Tensor:
        """One iterative step of length `size` from `points` up `grad`, projected back, same shape. `size` and, for l1,
        the `share` of coordinates that move: one for all or one per image (N,).
        """
        if self.norm == "linf":
            length = torch.as_tensor(size, dtype=grad.dtype, device=grad.device)
            return self.project(torch.addcmul(points, grad.sign(), length.reshape(-1, *[1] * (grad.dim() - 1))))
        room = torch.where(grad > 0, self.upper - points, points - self.lower)
        movable = torch.where(room > 0, grad, torch.zeros_like(grad))  # the budget is not for pixels that cannot move
        step = norms.spread_step(movable.flatten(1), size, self.norm, room.flatten(1), share)
        return self.project(points + step.view_as(points))

    def sample(self, streams: Streams) -> Tensor:
        """A random allowed point per image."""
        lo, hi = self._offsets()
        return self._apply(norms.sample(streams, self.eps, self.norm, lo, hi))

    def _offsets(self) -> tuple[Tensor, Tensor]:
        return (self.lower - self.originals).flatten(1), (self.upper - self.originals).flatten(1)

    def _apply(self, delta: Tensor) -> Tensor:
        return torch.clamp(self.originals + delta.view_as(self.originals), self.lower, self.upper)
