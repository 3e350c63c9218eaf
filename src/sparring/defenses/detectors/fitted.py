"""A fitted detector: what it learnt, its threshold, and the model it belongs to. Saved without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparring.defenses.saving import read, write
from sparring.errors import DataError, InputError, SparringError
from sparring.model import Model, frozen_eval, model_digest
from sparring.rng import base_seed

if TYPE_CHECKING:
    from sparring.defenses.detectors.base import Detector


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `Detector.fit` returns. `threshold`: scores strictly above it are flagged; `spread`: from the median clean
    score to the threshold; `fpr`, `n`: the false-positive rate asked for and the number of calibration images; `model`:
    digest of the model it was fitted to, for images of `shape` (C, H, W).
    """

    detector: Detector
    state: dict[str, Tensor]
    threshold: float
    spread: float
    fpr: float
    n: int
    model: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The detector's text form."""
        return str(self.detector)

    def scores(self, model: Model, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """How suspicious each image is (N,). `generator` gives the seed of a detector with randomness.

        Raises `InputError` for another model than the one it was fitted to.
        """
        from sparring.defenses.detectors.base import scored
        from sparring.defenses.transforms.base import checked, streams_of

        checked(images)
        self.check_model(model)
        streams = streams_of(images, base_seed(generator), self.name)
        with frozen_eval(model):
            return scored(self.detector, self.state, model, images.detach(), streams)

    def flags(self, scores: Tensor) -> Tensor:
        """Bool (N,): strictly above the threshold, or no number."""
        return (scores.double() > self.threshold) | scores.isnan()

    def check_model(self, model: Model, digest: str | None = None) -> None:
        """Raise `InputError` unless `model` is the one this was fitted to (its digest may be given)."""
        if (digest or model_digest(model, self.shape)) != self.model:
            raise InputError(
                f"the detector {self.name} was fitted to another model: its weights, architecture or answers have "
                "changed since. Fit it again (detector.fit, or `sparring fit`)"
            )

    def save(self, path: str | Path) -> Path:
        """Write it to `path` as safetensors with a JSON header. Raises `InputError` where it can't."""
        facts = {
            "detector": self.detector.described(),
            "threshold": self.threshold,
            "spread": self.spread,
            "fpr": self.fpr,
            "n": self.n,
            "model": self.model,
            "shape": list(self.shape),
        }
        return write(Path(path), "detector", self.state, facts)


def load_detector(path: str | Path, model: Model | None = None) -> Fitted:
    """Read a fitted detector. With `model`, refuse one that was fitted to another.

    Raises `DataError` for a file that is missing, truncated, changed, or no detector; `InputError` for another model.
    """
    from sparring.defenses.detectors.declared import detector_from

    state, facts = read(Path(path), "detector")
    try:
        fitted = Fitted(detector_from(facts["detector"]), state, *_numbers(facts))
    except (KeyError, TypeError, ValueError, SparringError) as error:
        raise DataError(f"{path} does not describe a detector ({error}): fit and save it again") from error
    if model is not None:
        fitted.check_model(model)
    return fitted


def _numbers(facts: dict[str, Any]) -> tuple[float, float, float, int, str, tuple[int, ...]]:
    return (
        float(facts["threshold"]),
        float(facts["spread"]),
        float(facts["fpr"]),
        int(facts["n"]),
        str(facts["model"]),
        tuple(int(extent) for extent in facts["shape"]),
    )
