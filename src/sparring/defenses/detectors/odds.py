"""How the logits move under noise (Roth, Kilcher & Hofmann 2019, arXiv:1902.04818)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.detectors.base import Detector, Lesson, State
from sparring.defenses.detectors.evidence import Evidence, gathered
from sparring.rng import Streams, digests


@dataclass(frozen=True, kw_only=True)
class Odds(Detector):
    """The largest standardised change of z_other - z_answer under Gaussian noise: adversarials drift back.

    draws: noisy versions per image (the paper takes 256). std: of the noise. Means and deviations are those of clean
    images with the same answer and other class.
    """

    random: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    paper: ClassVar[str] = "Roth, Kilcher & Hofmann, The Odds are Odd, ICML 2019"

    draws: int = 16
    std: float = 0.1

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1, whole=True)
        at_least("std", self.std, 1e-6)

    @property
    def asks(self) -> int:
        """One per view."""
        return self.draws

    def views(self, images: Tensor, state: State, streams: Streams, gradient: str) -> tuple[Tensor, ...]:
        """Noisy versions, not clamped."""
        noise = streams.normal((self.draws, *images.shape[1:]), images)
        return tuple(images + self.std * one for one in noise.unbind(1))

    def learn(self, lesson: Lesson) -> State:
        """Mean and deviation of the change, by answer and other class; where there are too few, of all answers."""
        found, answers = [], []
        streams = Streams(lesson.seed, "odds", digests(lesson.images))
        for first in range(0, len(lesson.images), 64):
            mask = torch.zeros(len(lesson.images), dtype=torch.bool)
            mask[first : first + 64] = True
            part = lesson.images[mask]
            with torch.no_grad():
                seen = gathered(lesson.model, part, self.views(part, {}, streams.select(mask), ""), ())
            found.append(_change(seen))
            answers.append(seen.logits.argmax(1))
        change, answer = torch.cat(found), torch.cat(answers)
        means = change.mean(0).repeat(change.shape[1], 1)
        deviations = change.std(0).repeat(change.shape[1], 1)
        for c in torch.unique(answer):
            own = change[answer == c]
            if len(own) >= 10:
                means[c], deviations[c] = own.mean(0), own.std(0)
        return {"means": means, "deviations": deviations.clamp_min(1e-6)}

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """The largest over the other classes."""
        answer = evidence.logits.argmax(1)
        change = _change(evidence)
        standard = (change - state["means"].to(change)[answer]) / state["deviations"].to(change)[answer]
        return standard.scatter(1, answer[:, None], -torch.inf).amax(1)


def _change(evidence: Evidence) -> Tensor:
    """Mean over the noise of (z_j - z_answer) with noise, minus the same without, (M, K)."""
    answer = evidence.logits.argmax(1)[:, None]
    noisy = torch.stack(evidence.views).mean(0)
    moved = noisy - evidence.logits
    return moved - moved.gather(1, answer)
