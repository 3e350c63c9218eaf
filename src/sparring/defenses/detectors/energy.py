"""The free energy of the logits as a detector (Liu et al. 2020, arXiv:2010.03759)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.detectors.base import Detector, State
from sparring.defenses.detectors.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Energy(Detector):
    """-T·log Σ exp(z/T) with `temperature` T (the paper's 1): small logits everywhere are suspicious."""

    paper: ClassVar[str] = "Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        at_least("temperature", self.temperature, 1e-6)

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """The energy."""
        return -self.temperature * (evidence.logits / self.temperature).logsumexp(1)
