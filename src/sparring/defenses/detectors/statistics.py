"""A classifier trained on statistics of clean and attacked inputs (after Grosse et al. 2017 and Metzen et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, softmax

from sparring.defenses.detectors.base import Detector, Lesson, State
from sparring.defenses.detectors.evidence import Evidence, gathered
from sparring.defenses.detectors.logistic import fitted_logistic, log_odds
from sparring.defenses.transforms import GaussianBlur, Median
from sparring.errors import InputError
from sparring.rng import Streams

SQUEEZERS = (Median(size=2), GaussianBlur(sigma=1.0))


@dataclass(frozen=True, kw_only=True)
class Statistics(Detector):
    """A logistic regression on what can be measured of an image and of the model's answer: roughness, what two filters
    change in the picture and in the answer, and how sure the answer is; with squares.

    attacks: what it learns from, as text; each is run on the bare model within the threat given to `fit`.
    """

    learns: ClassVar[bool] = True
    paper: ClassVar[str] = "Metzen et al., On Detecting Adversarial Perturbations, ICLR 2017 (the idea)"

    attacks: tuple[str, ...] = ("fgsm", "pgd:steps=20")

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InputError('attacks must name at least one attack, such as ("pgd:steps=20",)')

    @property
    def asks(self) -> int:
        """One per view."""
        return len(SQUEEZERS)

    def views(self, images: Tensor, state: State, streams: Streams, gradient: str) -> tuple[Tensor, ...]:
        """What the two filters make of them."""
        return tuple(squeezer.passed(images, None, gradient) for squeezer in SQUEEZERS)

    def learn(self, lesson: Lesson) -> State:
        """The regression."""
        return fitted_logistic(
            self._measured(lesson, lesson.images), self._measured(lesson, lesson.attacked(self.attacks))
        )

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """The regression's log-odds."""
        return log_odds(measurements(evidence), state)

    def _measured(self, lesson: Lesson, images: Tensor) -> Tensor:
        rows = []
        with torch.no_grad():
            for part in torch.split(images, 64):
                views = tuple(squeezer.run(part, None) for squeezer in SQUEEZERS)
                rows.append(measurements(gathered(lesson.model, part, views, ())))
        return torch.cat(rows)


def measurements(evidence: Evidence) -> Tensor:
    """The statistics of each image, and their squares, (M, F)."""
    x, z = evidence.images, evidence.logits
    answer = softmax(z, 1)
    top = z.topk(2, dim=1).values
    found = [top[:, 0] - top[:, 1], z.logsumexp(1), -(answer * (answer + 1e-12).log()).sum(1)]
    found += [x.flatten(1).mean(1), (x.flatten(1).var(1, correction=0) + 1e-12).sqrt()]
    found += [x.diff(dim=dim).abs().flatten(1).sum(1) / x[0].numel() for dim in (2, 3)]
    for squeezer, view in zip(SQUEEZERS, evidence.views, strict=True):
        found.append((x - squeezer.run(x, None)).abs().flatten(1).mean(1))
        found.append((answer - softmax(view, 1)).abs().sum(1))
    rows = torch.stack(found, 1)
    return torch.cat([rows, rows**2], 1)
