"""How well an autoencoder of clean images repeats an image (MagNet; Meng & Chen 2017, arXiv:1705.09064)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, log_softmax, nn
from torch.nn.functional import conv2d

from sparring.attacks.base import at_least, checked_choice
from sparring.defenses.detectors.base import Detector, Lesson, State
from sparring.defenses.detectors.evidence import Evidence
from sparring.rng import Streams

BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Detector):
    """An image unlike those an autoencoder was trained on comes out changed.

    measure: "error", the mean absolute difference of image and repetition; or "divergence", the Jensen-Shannon
    divergence of the model's answers to them at `temperature` (the paper's second kind of detector, with 10).
    filters, noise, epochs: of the paper's autoencoder for MNIST (3 x 3 convolutions with sigmoids, 3 filters, noise
    0.1) and its training.
    """

    learns: ClassVar[bool] = True
    paper: ClassVar[str] = "Meng & Chen, MagNet: a Two-Pronged Defense against Adversarial Examples, CCS 2017"

    measure: str = "error"
    temperature: float = 10.0
    filters: int = 3
    noise: float = 0.1
    epochs: int = 20

    def __post_init__(self) -> None:
        checked_choice("measure", self.measure, ("error", "divergence"))
        at_least("temperature", self.temperature, 1e-6)
        at_least("filters", self.filters, 1, whole=True)
        at_least("noise", self.noise, 0)
        at_least("epochs", self.epochs, 1, whole=True)

    @property
    def asks(self) -> int:
        """One per view."""
        return int(self.measure == "divergence")

    def views(self, images: Tensor, state: State, streams: Streams, gradient: str) -> tuple[Tensor, ...]:
        """The repetition, where the model is to be asked about it."""
        return (repeated(images, state),) if self.measure == "divergence" else ()

    def learn(self, lesson: Lesson) -> State:
        """Adam on the squared error between an image and the repetition of a noisy version of it."""
        channels = lesson.images.shape[1]
        widths = (channels, self.filters, self.filters, channels)
        generator = torch.Generator().manual_seed(lesson.seed)
        state = {}
        for i, (before, after) in enumerate(pairwise(widths)):
            limit = (6 / (9 * (before + after))) ** 0.5
            state[f"weight{i}"] = torch.empty(after, before, 3, 3).uniform_(-limit, limit, generator=generator)
            state[f"bias{i}"] = torch.zeros(after)
        state = {name: nn.Parameter(value.to(lesson.images)) for name, value in state.items()}
        optimiser = torch.optim.Adam(state.values(), lr=1e-2)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for batch in torch.split(torch.randperm(len(lesson.images), generator=generator), BATCH):
                    images = lesson.images[batch]
                    noise = torch.randn(images.shape, generator=generator).to(images)
                    loss = (repeated((images + self.noise * noise).clamp(0, 1), dict(state)) - images).square().mean()
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
        return {name: value.detach() for name, value in state.items()}

    def score(self, evidence: Evidence, state: State) -> Tensor:
        """The chosen measure."""
        if self.measure == "error":
            return (repeated(evidence.images, state) - evidence.images).abs().flatten(1).mean(1)
        first, second = (log_softmax(z / self.temperature, 1) for z in (evidence.logits, evidence.views[0]))
        middle = torch.logaddexp(first, second) - torch.log(first.new_tensor(2.0))
        return ((first.exp() * (first - middle)).sum(1) + (second.exp() * (second - middle)).sum(1)) / 2


def repeated(images: Tensor, state: State) -> Tensor:
    """The autoencoder's output."""
    out = images
    for i in range(len(state) // 2):
        out = conv2d(out, state[f"weight{i}"].to(out), state[f"bias{i}"].to(out), padding=1).sigmoid()
    return out
