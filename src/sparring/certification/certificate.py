"""What was proved: image by image, of whom, how surely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.estimate import Estimate, proportion
from sparring.model import Model, model_digest


@dataclass(frozen=True, eq=False)
class Certificate:
    """What no attack can break. `certified` (bool, (N,)): right, and proved right on the whole region of the threat.

    subject: what is certified, and how surely; it speaks of nothing else, such as a stack around the model. right,
    prediction: the classifier named by `subject` on the images themselves. lower: a lower bound of the label's margin
    over the region, NaN where the method has none. radius: the budget up to which an image is proved, in the threat's
    norm, 0 where nothing is; None where it was not asked for. abstained: a smoothed classifier that could not decide.
    ceiling: the largest radius that the method could have shown. region: what else the threat says (box, mask), as
    `ThreatModel.key` has it. model, images: digests of whom and what it is about, the latter one per image; empty
    where whoever made it answers for that.
    """

    method: str
    subject: str
    norm: str
    eps: float
    labels: Tensor
    prediction: Tensor
    certified: Tensor
    lower: Tensor
    radius: Tensor | None = None
    abstained: Tensor | None = None
    ceiling: float | None = None
    notes: tuple[str, ...] = ()
    region: dict[str, Any] | None = None
    model: str = ""
    images: tuple[str, ...] = ()

    @property
    def right(self) -> Tensor:
        """Bool (N,): the label is what the classifier says."""
        return self.prediction == self.labels

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of the images that are classified correctly."""
        return proportion(int(self.right.sum()), len(self.labels))

    @property
    def certified_accuracy(self) -> Estimate:
        """Share of the images that are proved, with its 95 % Wilson interval: a lower bound of the robust accuracy."""
        return proportion(int(self.certified.sum()), len(self.labels))

    def certified_at(self, eps: float) -> Estimate:
        """The same for another budget, from the radii. Without them only budgets up to `eps` have an answer."""
        if self.radius is None:
            return proportion(int((self.certified & (self.eps >= eps)).sum()), len(self.labels))
        return proportion(int((self.right & (self.radius >= eps)).sum()), len(self.labels))

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        accuracy, clean = self.certified_accuracy, self.clean_accuracy
        return {
            "certificate": 1,
            "method": self.method,
            "subject": self.subject,
            "norm": self.norm,
            "eps": self.eps,
            "clean": {"value": clean.value, "low": clean.low, "high": clean.high, "n": clean.n},
            "certified": {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n},
            "ceiling": self.ceiling,
            "abstained": None if self.abstained is None else int(self.abstained.sum()),
            "notes": list(self.notes),
            "images": [
                {
                    "label": int(self.labels[i]),
                    "prediction": int(self.prediction[i]),
                    "certified": bool(self.certified[i]),
                    "lower": _number(self.lower[i]),
                    "radius": None if self.radius is None else _number(self.radius[i]),
                }
                for i in range(len(self.labels))
            ],
        }


def _number(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None


def identity(model: Model, images: Tensor, bounds: tuple[float, float]) -> str:
    """Digest of the model that takes such images, whatever is on them."""
    return model_digest(model, images.shape[1:], bounds, torch.zeros_like(images[:1]))
