"""Threats that are a finite set of changes, turns or corruptions: a candidate is allowed if one of them makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.perturbations.base import said, whole_box
from sparring.threat import Region, in_box

SLACK = 1e-5
"""By how much of the box a change made again may differ: sums are rounded in another order in another batch."""


@dataclass(frozen=True, kw_only=True, repr=False)
class FiniteThreat(ABC):
    """All pictures that one of finitely many changes makes of the original, and the original itself.

    A subclass lists its changes by what they cost, and makes them. The check makes them again and trusts nobody.
    """

    bounds: tuple[float, float] = (0.0, 1.0)

    def __repr__(self) -> str:
        return said(self)

    @property
    @abstractmethod
    def norm(self) -> str:
        """The name of this kind of threat."""

    @property
    @abstractmethod
    def eps(self) -> float:
        """The budget: the largest cost of a change."""

    @property
    @abstractmethod
    def eps_text(self) -> str:
        """The budget as people write it."""

    @abstractmethod
    def costs(self) -> Tensor:
        """What every change costs, float64 (G,)."""

    @abstractmethod
    def apply(self, originals: Tensor, change: Tensor) -> Tensor:
        """What the changes of the numbers `change` (N,) make of the images (N, C, H, W)."""

    @abstractmethod
    def shortlist(self, originals: Tensor, candidates: Tensor) -> Tensor:
        """Bool (N, G): the changes that may have made the candidates, for the check; all, where a look costs more."""

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """All that distinguishes it from other threats, as JSON."""

    def around(self, originals: Tensor) -> Region:
        """The whole box."""
        return whole_box(originals, self.bounds)

    def contains(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """Bool (N,): inside the box, and unchanged or made by one of the changes, up to rounding."""
        return in_box(adversarials, self.bounds) & self.distance(originals, adversarials).isfinite()

    def distance(self, originals: Tensor, adversarials: Tensor) -> Tensor:
        """Cost of the cheapest change that makes the candidate, float64 (N,); infinite where none does."""
        costs = self.costs().to(originals.device)
        spent = torch.full((len(originals),), torch.inf, dtype=torch.float64, device=originals.device)
        spent[(originals == adversarials).flatten(1).all(1)] = 0
        listed = self.shortlist(originals, adversarials)
        for change in costs.argsort(stable=True):
            rows = (listed[:, change] & spent.isinf()).nonzero().flatten()
            if len(rows):
                made = self.apply(originals[rows], change.expand(len(rows)))
                spent[rows[self.alike(made, adversarials[rows])]] = costs[change]
        return spent

    def alike(self, made: Tensor, found: Tensor) -> Tensor:
        """Bool (N,): equal up to rounding."""
        slack = SLACK * (self.bounds[1] - self.bounds[0])
        return ((made - found).abs() <= slack).flatten(1).all(1)
