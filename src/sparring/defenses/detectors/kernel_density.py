"""How dense the training features are where an image lies (Feinman et al. 2017, arXiv:1703.00410)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.detectors.base import Detector, Lesson, State, features_of
from sparring.defenses.detectors.evidence import Evidence, penultimate
from sparring.model import Model

TRIED = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Bandwidths that cross-validation chooses from, in multiples of the median distance within a class."""


@dataclass(frozen=True, kw_only=True)
class KernelDensity(Detector):
    """Minus the log-density of an image's features under Gaussian kernels on the clean features of its predicted class.

    layer: as for `Mahalanobis`. most: clean features kept per class. The paper adds the uncertainty of dropout, which
    most models do not have; this is its density estimate.
    """

    learns: ClassVar[bool] = True
    paper: ClassVar[str] = "Feinman et al., Detecting Adversarial Samples from Artifacts, 2017"

    layer: str | None = None
    most: int = 200

    def __post_init__(self) -> None:
        at_least("most", self.most, 2, whole=True)

    def suited(self, model: Model, images: Tensor) -> KernelDensity:
        """With the layer chosen."""
        return self if self.layer is not None else replace(self, layer=penultimate(model))

    def layers(self) -> tuple[str, ...]:
        """The one layer."""
        return () if self.layer is None else (self.layer,)

    def learn(self, lesson: Lesson) -> State:
        """Features by class, and the bandwidth that explains held-out ones best."""
        from sklearn.model_selection import GridSearchCV
        from sklearn.neighbors import KernelDensity as Estimator

        (features,) = features_of(lesson.model, lesson.images, self.layers()).values()
        rows = [(lesson.labels == c).nonzero().flatten()[: self.most] for c in torch.unique(lesson.labels)]
        kept = torch.cat(rows)
        features, classes = features[kept], lesson.labels[kept]
        centred = features - torch.stack([features[classes == c].mean(0) for c in classes])
        typical = float(torch.pdist(centred[:1000].double()).median().clamp_min(1e-6))
        folds = min(3, len(centred))
        search = GridSearchCV(Estimator(), {"bandwidth": [typical * factor for factor in TRIED]}, cv=folds)
        search.fit(centred[:1000].double().cpu().numpy())
        width = features.new_tensor([search.best_params_["bandwidth"]])
        return {"features": features, "classes": classes, "bandwidth": width}

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """Minus the log of the mean kernel; a class nobody has seen is as far as any other."""
        (features,) = evidence.features.values()
        known, classes = state["features"].to(features), state["classes"].to(features.device)
        kernels = -0.5 * ((features[:, None] - known) ** 2).sum(2) / state["bandwidth"].to(features) ** 2
        other = evidence.logits.argmax(1)[:, None] != classes
        own = kernels.masked_fill(other & ~other.all(1, keepdim=True), -torch.inf)
        return (~other).sum(1).clamp_min(1).to(own).log() - own.logsumexp(1)
