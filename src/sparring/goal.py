"""What the attacker wants: any wrong class, or one chosen class per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.errors import InputError


def _checked(labels: Tensor, name: str) -> Tensor:
    if not isinstance(labels, Tensor):
        raise InputError(f"{name} must be a torch tensor of class indices, got {type(labels).__name__}")
    if labels.dim() != 1:
        raise InputError(f"{name} must have shape (N,), one class index per image, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise InputError(f"{name} must hold integers (torch.int64), got {labels.dtype}; convert with .long()")
    if labels.numel() and int(labels.min()) < 0:
        raise InputError(f"{name} must be class indices >= 0, got {int(labels.min())}")
    return labels.long()


@dataclass(frozen=True, eq=False)
class Untargeted:
    """Any class but the true one. `labels`: int64 (N,)."""

    labels: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _checked(self.labels, "labels"))

    @property
    def reference(self) -> Tensor:
        """The class the loss is about: here, the true label, to be left behind."""
        return self.labels

    @property
    def sign(self) -> int:
        """+1: raise the loss of the reference class."""
        return 1

    def is_met(self, logits: Tensor) -> Tensor:
        """Bool (N,): the prediction differs from the label. NaN logits never count."""
        return _answered(logits) & (logits.argmax(1) != self.labels)

    def select(self, mask: Tensor | slice) -> Untargeted:
        """The goal of the images where `mask` is true, at these places, or of a slice."""
        return Untargeted(self.labels[mask])

    def to(self, device: torch.device | str) -> Untargeted:
        """The same goal with its labels on `device`."""
        return Untargeted(self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Targeted:
    """One chosen class per image. `targets`: int64 (N,). `leaving`: the class that the image is to leave, int64 (N,),
    where that is known: the losses then compare the target with it, not with the strongest other class.
    """

    targets: Tensor
    leaving: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", _checked(self.targets, "targets"))
        if self.leaving is not None:
            object.__setattr__(self, "leaving", _checked(self.leaving, "leaving"))

    @property
    def reference(self) -> Tensor:
        """The class the loss is about: here, the target, to be reached."""
        return self.targets

    @property
    def sign(self) -> int:
        """-1: lower the loss of the reference class."""
        return -1

    def is_met(self, logits: Tensor) -> Tensor:
        """Bool (N,): the prediction is the target. NaN logits never count."""
        return _answered(logits) & (logits.argmax(1) == self.targets)

    def select(self, mask: Tensor | slice) -> Targeted:
        """The goal of the images where `mask` is true, at these places, or of a slice."""
        return Targeted(self.targets[mask], None if self.leaving is None else self.leaving[mask])

    def to(self, device: torch.device | str) -> Targeted:
        """The same goal with its targets on `device`."""
        return Targeted(self.targets.to(device), None if self.leaving is None else self.leaving.to(device))


Goal = Untargeted | Targeted


def _answered(logits: Tensor) -> Tensor:
    return ~logits.isnan().any(1)
