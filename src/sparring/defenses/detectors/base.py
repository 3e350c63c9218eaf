"""The one parent of all detectors: what they look at, what they learn, and how suspicious they find an image."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.attacks import parse as parse_attack
from sparring.batching import plan
from sparring.defenses.detectors.calibration import conformal_threshold
from sparring.defenses.detectors.evidence import Evidence, gathered
from sparring.defenses.detectors.fitted import Fitted
from sparring.defenses.transforms.base import Transform, checked, streams_of
from sparring.errors import InputError
from sparring.goal import Untargeted
from sparring.model import Model, frozen_eval, model_digest
from sparring.rng import Streams
from sparring.threat import Threat

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a detector may learn from: clean images with their labels, and a threat to attack them within."""

    model: Model
    images: Tensor
    labels: Tensor
    threat: Threat | None
    seed: int

    def attacked(self, attacks: Sequence[str]) -> Tensor:
        """The images after each attack on the bare model, one block per attack.

        Raises `InputError` where no threat was given.
        """
        if self.threat is None:
            raise InputError(
                "this detector learns from attacked images too: say what attackers may do, "
                'fit(..., threat=ThreatModel("linf", "8/255"))'
            )
        goal, generator = Untargeted(self.labels), torch.Generator().manual_seed(self.seed)
        made = [parse_attack(text)(self.model, self.images, goal, self.threat, generator=generator) for text in attacks]
        return torch.cat(made)


@dataclass(frozen=True, kw_only=True)
class Detector(ABC):
    """Scores images (larger: more suspicious). `fit` learns what there is to learn, sets the threshold, and returns the
    `Fitted` detector that a stack uses; this object stays as it is.
    """

    random: ClassVar[bool] = False
    """Whether the same image is scored differently each time."""
    learns: ClassVar[bool] = False
    """Whether half of the images of `fit` are for learning, so that the threshold is set on images it has not seen."""
    paper: ClassVar[str] = ""

    def fit(
        self,
        model: Model,
        images: Tensor,
        *,
        fpr: float = 0.05,
        labels: Tensor | None = None,
        threat: Threat | None = None,
        seed: int = 0,
    ) -> Fitted:
        """The detector fitted to `model` on clean `images` (N, C, H, W), flagging a share `fpr` of clean images.

        The threshold is the ⌈(n+1)(1-fpr)⌉-th smallest of n calibration scores, and scores strictly above it are
        flagged: a further clean image of the same kind is flagged with probability at most `fpr`. labels: true classes,
        where a detector learns classes; else the model's own predictions. threat: needed by detectors that learn from
        attacks.

        Raises `InputError` where the images are too few for that `fpr`.
        """
        checked(images)
        if labels is not None and len(labels) != len(images):
            raise InputError(f"{len(labels)} labels for {len(images)} images: give one per image, or none")
        chosen = self.suited(model, images)
        with frozen_eval(model):
            images = images.detach()
            known = predictions(model, images) if labels is None else Untargeted(labels).labels
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            half = len(images) // 2 if self.learns else 0
            taught, rest = order[:half], order[half:]
            state: State = {}
            if self.learns:
                if half < 2:
                    raise InputError(f"{len(images)} images are too few to learn from: give at least 4")
                state = chosen.learn(Lesson(model, images[taught], known[taught], threat, seed))
            scores = scored(chosen, state, model, images[rest], streams_of(images[rest], seed, f"{chosen}"))
        threshold = conformal_threshold(scores, fpr)
        spread = max(threshold - float(scores.double().median()), 1e-3 * abs(threshold), 1e-9)
        digest = model_digest(model, tuple(images.shape[1:]))
        return Fitted(chosen, state, threshold, spread, fpr, len(rest), digest, tuple(images.shape[1:]))

    def suited(self, model: Model, images: Tensor) -> Detector:
        """This detector with everything chosen that depends on model and images."""
        del model, images
        return self

    @property
    def asks(self) -> int:
        """How many further views it wants the model's answers to."""
        return 0

    def layers(self) -> tuple[str, ...]:
        """Names of the model's layers whose features it looks at."""
        return ()

    def views(self, images: Tensor, state: State, streams: Streams, gradient: str) -> tuple[Tensor, ...]:
        """Further versions of the images that the model is to be asked about too."""
        del images, state, streams, gradient
        return ()

    def learn(self, lesson: Lesson) -> State:
        """What it must know besides a threshold, as named arrays."""
        del lesson
        return {}

    @abstractmethod
    def score(self, evidence: Evidence, state: State) -> Tensor:
        """How suspicious each image is (M,); differentiable."""

    def described(self) -> dict[str, Any]:
        """Kind and hyper-parameters as `sparring.toml` writes them."""
        from sparring.defenses.detectors import DETECTORS

        kind = type(self)
        name = next((n for n, known in DETECTORS.items() if known is kind), f"{kind.__module__}:{kind.__qualname__}")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": name, **{key: _plain(value) for key, value in values.items()}}

    def __str__(self) -> str:
        """The kind and what differs from its defaults."""
        described = self.described()
        defaults = {field.name: _plain(field.default) for field in dataclasses.fields(self)}
        changed = [f"{k}={_said(v)}" for k, v in described.items() if k != "kind" and v != defaults[k]]
        return f"{described['kind']}:{','.join(changed)}" if changed else str(described["kind"])


def scored(detector: Detector, state: State, model: Model, images: Tensor, streams: Streams) -> Tensor:
    """Scores (N,) of images, a batch at a time, without gradients."""
    how = plan(model, images)
    size, found = max(1, how.batch_size), []
    with torch.no_grad(), how.running():
        for first in range(0, len(images), size):
            mask = torch.zeros(len(images), dtype=torch.bool)
            mask[first : first + size] = True
            part = images[first : first + size]
            views = detector.views(part, state, streams.select(mask), "declared")
            found.append(detector.score(gathered(model, part, views, detector.layers()), state))
    return torch.cat(found)


def predictions(model: Model, images: Tensor) -> Tensor:
    """The model's own labels (N,)."""
    how = plan(model, images)
    with torch.no_grad():
        return torch.cat(
            [gathered(model, part, (), ()).logits.argmax(1) for part in torch.split(images, how.batch_size)]
        )


def features_of(model: Model, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Features (N, F) of every layer, a batch at a time."""
    how = plan(model, images)
    with torch.no_grad():
        parts = [gathered(model, part, (), layers).features for part in torch.split(images, how.batch_size)]
    return {name: torch.cat([part[name] for part in parts]) for name in layers}


def _plain(value: object) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Transform) else value


def _said(value: object) -> str:
    return (
        "/".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
