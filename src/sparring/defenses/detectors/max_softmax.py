"""The baseline of all detectors: how sure the model is (Hendrycks & Gimpel 2017, arXiv:1610.02136)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, log_softmax

from sparring.defenses.detectors.base import Detector, State
from sparring.defenses.detectors.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class MaxSoftmax(Detector):
    """Minus the logarithm of the largest softmax probability: an unsure model is suspicious."""

    paper: ClassVar[str] = "Hendrycks & Gimpel, A Baseline for Detecting Misclassified Examples, ICLR 2017"

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """-log p of the answer, which tells probabilities near 1 apart better than p itself."""
        return -log_softmax(evidence.logits, 1).amax(1)
