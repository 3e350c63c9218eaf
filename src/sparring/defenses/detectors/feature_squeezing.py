"""Feature squeezing (Xu, Evans & Qi 2018, arXiv:1704.01155)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, softmax

from sparring.defenses.detectors.base import Detector, State
from sparring.defenses.detectors.evidence import Evidence
from sparring.defenses.transforms import BitDepth, Median, NonLocalMeans, Transform
from sparring.errors import InputError
from sparring.model import Model
from sparring.rng import Streams

GREY = (BitDepth(bits=1), Median(size=2))
COLOUR = (BitDepth(bits=5), Median(size=2), NonLocalMeans(search=13, patch=3, strength=2))
LARGE = (BitDepth(bits=5), Median(size=2), NonLocalMeans(search=11, patch=3, strength=4))


@dataclass(frozen=True, kw_only=True)
class FeatureSqueezing(Detector):
    """The largest L1 distance between the model's softmax output on an image and on squeezed versions of it.

    squeezers: transforms whose result the model should take for the same thing. None given, those of the paper's joint
    detectors: for grey pictures 1 bit and 2 x 2 median (MNIST); for colour 5 bits, 2 x 2 median and non-local means
    13-3-2 (CIFAR-10), from 128 pixels on 11-3-4 (ImageNet). The model is asked once, about all versions together.
    """

    paper: ClassVar[str] = "Xu, Evans & Qi, Feature Squeezing, NDSS 2018"

    squeezers: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        given: Any = self.squeezers
        if not isinstance(given, (tuple, list)) or not all(isinstance(entry, Transform) for entry in given):
            raise InputError(f"squeezers must be transforms, such as (BitDepth(bits=1), Median()), got {given!r}")
        object.__setattr__(self, "squeezers", tuple(given))
        object.__setattr__(self, "random", any(squeezer.random for squeezer in given))

    def suited(self, model: Model, images: Tensor) -> FeatureSqueezing:
        """With the paper's squeezers for such images, where none were given."""
        if self.squeezers:
            return self
        channels, height = images.shape[1:3]
        return replace(self, squeezers=GREY if channels == 1 else COLOUR if height < 128 else LARGE)

    @property
    def asks(self) -> int:
        """One per view."""
        return len(self.squeezers)

    def views(self, images: Tensor, state: State, streams: Streams, gradient: str) -> tuple[Tensor, ...]:
        """The squeezed versions."""
        return tuple(s.passed(images, s.draw(images, streams), gradient) for s in self.squeezers)

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """The paper's joint score."""
        answer = softmax(evidence.logits, 1)
        return torch.stack([(answer - softmax(view, 1)).abs().sum(1) for view in evidence.views]).amax(0)
