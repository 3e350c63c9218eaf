"""The lead of the model's answer over the next class, as a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparring.defenses.detectors.base import Detector, State
from sparring.defenses.detectors.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Margin(Detector):
    """Minus the lead of the largest logit over the second: an answer near a boundary is suspicious."""

    paper: ClassVar[str] = "Scheffer, Decomain & Wrobel, Active Hidden Markov Models, IDA 2001 (margin of confidence)"

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """Second minus first."""
        first, second = evidence.logits.topk(2, dim=1).values.unbind(1)
        return second - first
