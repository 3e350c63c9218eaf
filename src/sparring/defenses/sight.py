"""All that a stack computes of some images in one pass, differentiable: what an adaptive attacker works with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.defenses.detectors.evidence import Evidence
from sparring.losses import class_margin


@dataclass(frozen=True, eq=False)
class Sight:
    """Of M images: the stack's logits (M, K); each detector's score as `excess` (M, D), in units of the spread of clean
    scores above the threshold, so that 0 is the threshold and -1 a typical clean image; how far the flags are from
    `quorum`, `alarm` (M,), above 0 where the image counts as flagged; the logits on the purified image, if any; and
    what the detectors looked at.
    """

    answers: Tensor
    scores: Tensor
    excess: Tensor
    alarm: Tensor
    purified: Tensor | None
    evidence: Evidence | None
    withholds: bool
    quorum: int = 1

    @property
    def flagged(self) -> Tensor:
        """Bool (M,)."""
        return self.alarm > 0

    @property
    def served(self) -> Tensor:
        """The logits behind the label that is served (M, K)."""
        if self.purified is None:
            return self.answers
        return torch.where(self.flagged[:, None], self.purified, self.answers)

    def evaded(self, labels: Tensor) -> Tensor:
        """Bool (M,): a wrong label is served. Under a policy that withholds flagged answers: wrong and not flagged."""
        wrong = self.served.argmax(1) != labels
        return wrong & ~self.flagged if self.withholds else wrong

    def gap(self, labels: Tensor, scale: float) -> Tensor:
        """How far each image (M,) is from evading: below 0 where it evades. `scale`: a typical clean margin."""
        lead = class_margin(self.served, labels) / scale
        return torch.maximum(lead, self.alarm) if self.withholds else lead

    def logits_of_all(self) -> list[Tensor]:
        """The logits of everything the model was asked about: answers, bare images, views, purified images."""
        found = [self.answers]
        if self.evidence is not None:
            found += [self.evidence.logits, *self.evidence.views]
        return found if self.purified is None else [*found, self.purified]
