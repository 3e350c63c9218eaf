"""Certified training: IBP (Gowal et al. 2018, arXiv:1810.12715) and CROWN-IBP (Zhang et al. 2020, arXiv:1906.06316)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparring.certification.bounds import intervals, margins
from sparring.certification.graph import trace
from sparring.certification.region import Domain
from sparring.errors import InputError
from sparring.hardening.craft import check_positive
from sparring.hardening.method import Batch, Method


@dataclass(frozen=True, kw_only=True)
class Certified(Method):
    """Learns from the worst logits that bounds allow, so that what it learns can be proved.

    Loss: kappa of the clean cross-entropy and 1 - kappa of that of the worst logits. kappa falls from 1 to its value
    (the paper's 0.5) as the budget grows, so give `eps_warmup`. crown: the share of CROWN-IBP bounds in the worst
    logits at the start, falling to 0 with kappa; 0 is IBP, 1 is CROWN-IBP as in its paper. Batch norm in the bounds
    uses its running statistics.
    """

    paper: ClassVar[str] = "Gowal et al., On the Effectiveness of Interval Bound Propagation, 2018"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")

    kappa: float = 0.5
    crown: float = 0.0

    def __post_init__(self) -> None:
        for name in ("kappa", "crown"):
            check_positive(name, getattr(self, name), zero=True)
            if getattr(self, name) > 1:
                raise InputError(f"{name} must be a share, at most 1, got {getattr(self, name)!r}")

    def craft(self, batch: Batch) -> Tensor:
        """The images themselves: bounds need no attack."""
        return batch.images

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """The mixture of both cross-entropies, averaged over the batch."""
        logits = batch.learner(points)
        clean = batch.criterion.learn(logits, batch.labels).mean()
        kappa = 1 - (1 - self.kappa) * batch.grown
        return kappa * clean + (1 - kappa) * self._worst(batch, points)

    def _worst(self, batch: Batch, points: Tensor) -> Tensor:
        """Cross-entropy where every rival has come as near as the bounds allow."""
        layers = trace(batch.module, points, check=False).layers()
        domain = Domain.build(batch.threat, points)
        known = intervals(layers, domain)
        least = margins(layers, known, batch.labels, domain, "ibp")
        share = self.crown * (1 - batch.grown)
        if share > 0:
            least = share * margins(layers, known, batch.labels, domain, "crown") + (1 - share) * least
        worst = torch.cat([least.new_zeros((len(least), 1)), -least], 1)
        return cross_entropy(worst, torch.zeros_like(batch.labels))
