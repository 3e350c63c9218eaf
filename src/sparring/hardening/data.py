"""Images to learn from and images to watch: split once, dealt out anew every epoch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sparring.errors import InputError
from sparring.evaluation.task import Subset
from sparring.goal import Untargeted
from sparring.hardening.draws import seed_of
from sparring.problem import check_images
from sparring.threat import ThreatModel

WATCHED = 500
"""Images that the watch attacks, at most."""
KEPT = 1000
"""Images that are kept from training where only a share was given, at most."""


class Images(Protocol):
    """A tensor (N, C, H, W), or anything that gives such a tensor for a slice or a list of rows."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: Any, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Split:
    """The rows to train on and those kept for validation."""

    images: Images
    labels: Tensor
    train: Tensor
    validation: Tensor
    watched: Tensor
    seed: int

    def steps(self, per_step: int) -> int:
        """Whole batches in an epoch; what is left over has its turn in another order."""
        return max(1, len(self.train) // per_step)

    def order(self, epoch: int) -> Tensor:
        """The training rows in the order of this epoch."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
        return self.train[torch.randperm(len(self.train), generator=generator)]

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of these rows."""
        where: Any = rows if isinstance(self.images, Tensor) else rows.tolist()
        return self.images[where], self.labels[rows]

    def part(self, rows: Tensor) -> Subset:
        """These images, read when needed."""
        return Subset(self.images, rows.tolist())


def split(data: tuple[Images, Tensor], threat: ThreatModel, validation: float, watched: int | None, seed: int) -> Split:
    """Keep part of the data from training: a share below 1 (at most 1,000 images), or a number of images.

    Raises `InputError` for images or labels that cannot be used, or too few of them.
    """
    images, labels = checked_pair(data, threat)
    n = len(images)
    kept = max(1, min(KEPT, round(validation * n)) if validation < 1 else int(validation))
    if n - kept < 1 or n < 2:
        raise InputError(f"{n} images are too few: {kept} are kept for validation and nothing is left to train on")
    generator = torch.Generator().manual_seed(seed_of(seed, "split"))
    order = torch.randperm(n, generator=generator)
    held = order[:kept].sort().values
    few = min(kept, WATCHED if watched is None else watched)
    watching = held[torch.randperm(kept, generator=generator)[:few]]
    return Split(images, labels, order[kept:].sort().values, held, watching, seed)


def checked_pair(data: tuple[Images, Tensor], threat: ThreatModel) -> tuple[Images, Tensor]:
    """Images and int64 labels on the CPU, or `InputError` that says what cannot be used."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise InputError("data must be a pair (images, labels), such as sp.load_data returns")
    images, labels = data
    if isinstance(images, Tensor):
        check_images(images, threat.bounds)
        images = images.detach()
    elif not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise InputError(f"images must be a torch tensor or give tensors for rows, got {type(images).__name__}")
    labels = Untargeted(labels).labels.cpu()
    n = len(images)
    if len(labels) != n:
        raise InputError(f"{len(labels)} labels for {n} images: give one per image")
    return images, labels


def data_digest(images: Images, labels: Tensor) -> str:
    """SHA-256 over shape, pixel values and labels, hex; the same whether images are lazy or not."""
    shape = (len(images), *images[0:1].shape[1:])
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    for start in range(0, len(images), 256):
        digest.update(images[start : start + 256].detach().cpu().contiguous().numpy().tobytes())
    digest.update(labels.cpu().numpy().tobytes())
    return digest.hexdigest()
