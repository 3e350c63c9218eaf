"""What a training method is: how a batch becomes the points to learn from, and these a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import InputError, UnsupportedError
from sparring.hardening.draws import Draws
from sparring.threat import ThreatModel

UserLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Criterion:
    """The loss to learn with, per image: cross-entropy, with its labels smoothed (Szegedy et al. 2016), or the
    user's function of logits (N, K) and labels (N,) that returns (N,).
    """

    smoothing: float = 0.0
    own: UserLoss | None = None

    def learn(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the weights minimise, (N,)."""
        if self.own is None:
            return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        values = self.own(logits, labels)
        if not isinstance(values, Tensor) or values.shape != labels.shape:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"your loss must return one value per image, shape {tuple(labels.shape)}, got {got}")
        return values

    def attack(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the perturbation maximises, (N,): the same, but smooth labels would tell it where to stop."""
        if self.own is None:
            return functional.cross_entropy(logits, labels, reduction="none")
        return self.learn(logits, labels)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images (N, C, H, W) and labels (N,) of one step.

    learner: the model as it learns, in training mode; several processes meet in it. module: the same model bare, for
    crafting. threat: the budget of this step (it grows during a warm-up). memory: tensors that a method keeps from
    step to step. grown: the budget of this step as a share of the full one.
    """

    learner: Callable[[Tensor], Tensor]
    module: nn.Module
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    draws: Draws
    criterion: Criterion = field(default_factory=Criterion)
    memory: dict[str, Tensor] = field(default_factory=dict)
    grown: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to train. Its fields are its hyper-parameters; a subclass writes `craft` and `loss`."""

    paper: ClassVar[str] = ""
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    """The norms it works in."""
    copies: ClassVar[int] = 1
    """How often an image of the batch is learned from: a batch takes `batch_size / copies` images."""
    own_loss: ClassVar[bool] = False
    """Does it learn by a loss of its own only, whatever the recipe names?"""

    beside: ClassVar[bool] = False
    """Does it learn from the images as they are, too, in the same pass and before the points?"""

    epochs: ClassVar[int] = 15
    """Passes over a large set that serve it well."""

    @abstractmethod
    def craft(self, batch: Batch) -> Tensor:
        """The points to learn from, (N, C, H, W), without a graph."""

    @abstractmethod
    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """The loss to minimise, a number with a graph to the weights."""

    def shown(self, batch: Batch, points: Tensor) -> Tensor:
        """What passes through the learning model, and so what its batch norm sees: the points, behind the images where
        these are learned from, too.
        """
        return torch.cat([batch.images, points]) if self.beside else points

    @property
    def repeats(self) -> int:
        """Steps on the same batch."""
        return 1

    def check(self, threat: ThreatModel) -> None:
        """Raise `UnsupportedError` unless the method works in this norm."""
        if threat.norm not in self.threats:
            raise UnsupportedError(
                f"{type(self).__name__} trains in {', '.join(self.threats)}, not in {threat.norm}: "
                "choose another method"
            )

    def __str__(self) -> str:
        from sparring.hardening.spec import format_method

        return format_method(self)


def mean_loss(batch: Batch, points: Tensor) -> Tensor:
    """The mean of the criterion over `points`."""
    return batch.criterion.learn(batch.learner(points), batch.labels).mean()
