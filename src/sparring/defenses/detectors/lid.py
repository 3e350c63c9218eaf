"""Local intrinsic dimensionality (Ma et al. 2018, arXiv:1801.02613)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.detectors.base import Detector, Lesson, State, features_of
from sparring.defenses.detectors.evidence import Evidence, activations
from sparring.defenses.detectors.logistic import fitted_logistic, log_odds
from sparring.errors import InputError
from sparring.model import Model


@dataclass(frozen=True, kw_only=True)
class LID(Detector):
    """A logistic regression, trained on clean, noisy and attacked images, on the estimated dimensionality of the clean
    features around an image's features in every activation layer.

    neighbours, reference: k and the number of clean images the neighbours come from (the paper's 20 of 100); here
    always the same ones, so that an image's score does not depend on its batch. attacks: what it learns from, as text.
    names: the layers; none given, all activations.
    """

    learns: ClassVar[bool] = True
    paper: ClassVar[str] = "Ma et al., Characterizing Adversarial Subspaces Using LID, ICLR 2018"

    neighbours: int = 20
    reference: int = 100
    attacks: tuple[str, ...] = ("pgd:steps=20",)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least("neighbours", self.neighbours, 2, whole=True)
        at_least("reference", self.reference, self.neighbours + 1, whole=True)
        if not self.attacks:
            raise InputError('attacks must name at least one attack, such as ("pgd:steps=20",)')

    def suited(self, model: Model, images: Tensor) -> LID:
        """With the layers chosen."""
        return self if self.names else replace(self, names=activations(model))

    def layers(self) -> tuple[str, ...]:
        """All activations, or the named ones."""
        return self.names

    def learn(self, lesson: Lesson) -> State:
        """Reference features by layer, and the regression."""
        count = min(self.reference, len(lesson.images) // 2)
        if count <= self.neighbours:
            raise InputError(f"{self.neighbours} neighbours need at least {4 * self.neighbours + 4} images to fit on")
        known = features_of(lesson.model, lesson.images[:count], self.names)
        state = {f"reference{i}": known[name] for i, name in enumerate(self.names)}
        rest = replace(lesson, images=lesson.images[count:], labels=lesson.labels[count:])
        attacked = rest.attacked(self.attacks)
        size = float((attacked - rest.images.repeat(len(self.attacks), 1, 1, 1)).flatten(1).norm(dim=1).mean())
        noise = torch.randn(rest.images.shape, generator=torch.Generator().manual_seed(lesson.seed)).to(rest.images)
        noisy = (rest.images + noise * size / rest.images[0].numel() ** 0.5).clamp(0, 1)
        rows = [
            self._dimensions(features_of(lesson.model, images, self.names), state)
            for images in (torch.cat([rest.images, noisy]), attacked)
        ]
        return state | fitted_logistic(*rows)

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """The regression's log-odds."""
        return log_odds(self._dimensions(evidence.features, state), state)

    def _dimensions(self, features: dict[str, Tensor], state: State) -> Tensor:
        """-(mean of log(d_i / d_k))⁻¹ over the k nearest reference features, (M, layers)."""
        found = []
        for i, name in enumerate(self.names):
            away = features[name][:, None] - state[f"reference{i}"].to(features[name])
            near = (away.square().sum(2) + 1e-12).sqrt().topk(self.neighbours, largest=False).values
            found.append(-1 / (near / near[:, -1:]).log().mean(1).clamp_max(-1e-6))
        return torch.stack(found, 1)
