"""Distance to the classes in feature space (Lee et al. 2018, arXiv:1807.03888)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sparring.defenses.detectors.base import Detector, Lesson, State, features_of
from sparring.defenses.detectors.evidence import Evidence, penultimate
from sparring.model import Model


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Detector):
    """The smallest of the squared Mahalanobis distances between an image's features and the mean of each class, with
    one covariance for all classes, shrunk as Ledoit & Wolf (2004) do.

    layer: name of the layer whose output is looked at, or with ":input" behind it its input; None for the input of the
    last linear layer. The paper combines several layers, for attacks known beforehand; this is its one-layer form.
    """

    learns: ClassVar[bool] = True
    paper: ClassVar[str] = "Lee et al., A Simple Unified Framework for Detecting Adversarial Samples, NeurIPS 2018"

    layer: str | None = None

    def suited(self, model: Model, images: Tensor) -> Mahalanobis:
        """With the layer chosen."""
        return self if self.layer is not None else replace(self, layer=penultimate(model))

    def layers(self) -> tuple[str, ...]:
        """The one layer."""
        return () if self.layer is None else (self.layer,)

    def learn(self, lesson: Lesson) -> State:
        """Class means and the inverse covariance around them."""
        from sklearn.covariance import LedoitWolf

        (features,) = features_of(lesson.model, lesson.images, self.layers()).values()
        classes = torch.unique(lesson.labels)
        means = torch.stack([features[lesson.labels == c].mean(0) for c in classes])
        place = torch.searchsorted(classes, lesson.labels)
        estimated = LedoitWolf(assume_centered=True).fit((features - means[place]).double().cpu().numpy())
        return {"means": means, "precision": torch.from_numpy(estimated.precision_).to(features)}

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """The smallest distance."""
        (features,) = evidence.features.values()
        away = features[:, None] - state["means"].to(features)
        return torch.einsum("nkf,fg,nkg->nk", away, state["precision"].to(features), away).amin(1)
