"""Common corruptions as a threat: whoever may choose the weather, the lens and the file format (Hendrycks & Dietterich
2019, arXiv:1903.12261).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.errors import InputError, unknown
from sparring.perturbations.base import check_pictures
from sparring.perturbations.finite import FiniteThreat
from sparring.perturbations.recipes import RECIPES
from sparring.rng import Streams, digests
from sparring.threat import checked_bounds

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int = 0, bounds: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """`images` (N, C, H, W) with the corruption `name` of `RECIPES` at `severity` 1 to 5.

    Draws depend on the seed, corruption and picture alone, so that anybody can make them again.
    Raises `InputError` for an unknown name or severity.
    """
    if name not in RECIPES:
        raise InputError(unknown("corruption", name, list(RECIPES)))
    if severity not in SEVERITIES or isinstance(severity, bool):
        raise InputError(f"severity must be one of 1 to 5, got {severity!r}")
    check_pictures(images)
    low, high = bounds
    streams = Streams(seed, name, digests(images))
    unit = (images - low) / (high - low)
    return (RECIPES[name](unit, severity, streams).clamp(0, 1) * (high - low) + low).clamp(low, high)


@dataclass(frozen=True, kw_only=True, repr=False)
class Corruptions(FiniteThreat):
    """All pictures that one of the corruptions `names` (None: all) makes at a severity of 1 up to `severity`.

    seed: of the draws of noise, fog and the direction of motion, one per picture and corruption.
    """

    severity: int = 3
    names: Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", checked_bounds(self.bounds))
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))
        for name in self._names():
            if name not in RECIPES:
                raise InputError(unknown("corruption", name, list(RECIPES)))
        if not self._names():
            raise InputError("names is empty: name at least one corruption, or None for all")
        if self.severity not in SEVERITIES or isinstance(self.severity, bool):
            raise InputError(f"severity must be one of 1 to 5, got {self.severity!r}")

    @property
    def norm(self) -> str:
        """The name of this kind of threat."""
        return "corruption"

    @property
    def eps(self) -> float:
        """The severity."""
        return float(self.severity)

    @property
    def eps_text(self) -> str:
        """The severity in words."""
        return f"severity {self.severity}"

    def changes(self) -> list[tuple[str, int]]:
        """Name and severity of every change, mild ones first."""
        return [(name, severity) for severity in range(1, self.severity + 1) for name in self._names()]

    def costs(self) -> Tensor:
        """The severities."""
        return torch.tensor([float(severity) for _, severity in self.changes()], dtype=torch.float64)

    def apply(self, originals: Tensor, change: Tensor) -> Tensor:
        """The corrupted images."""
        made, changes = originals.clone(), self.changes()
        for number in sorted(set(change.tolist())):
            rows = change == number
            name, severity = changes[number]
            made[rows] = corrupt(originals[rows], name, severity, seed=self.seed, bounds=self.bounds)
        return made

    def shortlist(self, originals: Tensor, candidates: Tensor) -> Tensor:
        """All of them: a corruption has no shorter way to be made again than to make it."""
        del candidates
        return torch.ones(len(originals), len(self.changes()), dtype=torch.bool, device=originals.device)

    def key(self) -> dict[str, Any]:
        """Kind, severity, corruptions, seed and box."""
        names = list(self._names())
        return {"norm": self.norm, "eps": self.eps, "names": names, "draws": self.seed, "bounds": self.bounds}

    def _names(self) -> tuple[str, ...]:
        return tuple(RECIPES) if self.names is None else tuple(self.names)
