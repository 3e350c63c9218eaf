"""The declared stack as the guard asks it: one batch in, everything that is decided, watched and logged out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.batching import laid_out, plan
from sparring.defenses import Stack
from sparring.errors import InputError
from sparring.guard.watch.prints import Prints, projected, roughness, thumbnails
from sparring.model import device_of, frozen_eval, model_digest
from sparring.rng import Streams, digests

Shape = tuple[int, int, int]
TOP = 3
"""Classes kept with an event."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Of N images: labels, confidence, margin (between the two highest logits), flagged and withheld, detector scores
    (N, D), the `TOP` classes and their probabilities, logits (N, K), and features (N, F).
    """

    images: Tensor
    labels: np.ndarray
    confidence: np.ndarray
    margin: np.ndarray
    flagged: np.ndarray
    withheld: np.ndarray
    scores: np.ndarray
    top: np.ndarray
    top_shares: np.ndarray
    logits: np.ndarray
    features: Tensor

    def __len__(self) -> int:
        """Images."""
        return len(self.labels)

    @cached_property
    def prints(self) -> Prints:
        """By which clients are watched; made when they are first asked for, since no answer waits for them."""
        with torch.inference_mode():
            return Prints(thumbnails(self.images), projected(self.features), roughness(self.images))


class Engine:
    """A stack, the shape (C, H, W) of its images and the names of its classes; called with batches, by one thread.
    The model stays in evaluation mode until `close`. Images are not checked again: they come from our own readers.

    Raises `InputError` where the stack does not take images of `shape`.
    """

    def __init__(self, stack: Stack, shape: Sequence[int], names: Sequence[str] | None = None) -> None:
        c, h, w = shape
        self.stack, self.shape, self.names = stack, (int(c), int(h), int(w)), names
        self._embedding = _Embedding()
        self._hooked: Any = None
        probe = torch.rand((2, *self.shape), generator=torch.Generator().manual_seed(0))
        self._device = device_of(stack.model, probe)
        self._frozen = ExitStack()
        self._frozen.enter_context(frozen_eval(stack.model))
        self._plan = plan(stack.model, probe.to(self._device))
        self._most = max(1, self._plan.batch_size // stack.width)
        self._hook()
        self.classes = int(self(probe).logits.shape[1])
        if names is not None and len(names) != self.classes:
            raise InputError(f"{len(names)} class names for a model of {self.classes} classes: give one per class")
        self.model_digest, self.digest = model_digest(stack.model, self.shape), stack.digest(self.shape)

    def warm_up(self, most: int) -> None:
        """Call the stack with every batch size up to `most` that doubling reaches, so that the first client waits no
        longer than the others.
        """
        if self._plan.one_thread:
            torch.set_num_threads(1)
        size = 1
        while size <= most:
            self(torch.zeros((size, *self.shape)))
            size *= 2

    def seconds(self, n: int) -> float:
        """That a batch of `n` images takes, the fastest of five."""
        images, times = torch.zeros((n, *self.shape)), []
        for _ in range(5):
            start = time.perf_counter()
            self(images)
            times.append(time.perf_counter() - start)
        return min(times)

    def __call__(self, images: Tensor) -> Answers:
        """Decide on images (N, C, H, W) in [0, 1], in as large parts as suit the model. Raises `ModelError` where the
        model breaks its contract.
        """
        with torch.inference_mode():
            parts = [self._looked(part) for part in torch.split(images, self._most)]
            columns = parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))
            logits, flags, scores, features = columns
            best, order = logits.topk(min(TOP, logits.shape[1]))
            shares = logits.softmax(1).gather(1, order).numpy()
        flagged, lead = flags.numpy(), best.numpy()
        return Answers(
            images=images,
            labels=order[:, 0].numpy(),
            confidence=shares[:, 0],
            margin=lead[:, 0] - lead[:, 1],
            flagged=flagged,
            withheld=flagged if self.stack.policy.withholds else np.zeros_like(flagged),
            scores=scores.numpy(),
            top=order.numpy(),
            top_shares=shares,
            logits=logits.numpy(),
            features=features,
        )

    def _looked(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits, flags, detector scores and features of one part."""
        self._embedding.first = None
        asked = laid_out(images, True) if self._plan.channels_last else images
        sight = self.stack.look(asked.to(self._device), self._streams(images))
        logits = sight.served.float().cpu()
        first, self._embedding.first = self._embedding.first, None
        features = logits if first is None else first[: len(images)].cpu()
        return logits, sight.flagged.cpu(), sight.scores.cpu(), features

    @property
    def native(self) -> bool:
        """Does torch compute the model, in this process?"""
        model: Any = self.stack.model
        return _is_module(model) and next(model.parameters(), None) is not None

    def close(self) -> None:
        """Leave the model as it was."""
        if self._hooked is not None:
            self._hooked.remove()
        self._frozen.close()

    def name(self, label: int) -> str:
        """The class's name, or its number."""
        return str(label) if self.names is None else self.names[label]

    def _streams(self, images: Tensor) -> Streams:
        """Fresh draws for a stack with randomness."""
        if not self.stack.random:
            return Streams(0, "stack", [b""] * len(images))
        return Streams(secrets.randbits(62), "stack", digests(images))

    def _hook(self) -> None:
        """Keep what goes into the last linear layer: the embedding. Without one, the logits stand in for it."""
        model: Any = self.stack.model
        linear = [part for part in model.modules() if isinstance(part, nn.Linear)] if _is_module(model) else []
        if linear:
            self._hooked = linear[-1].register_forward_pre_hook(self._embedding)


class _Embedding:
    """Keeps what its module is given first. Of its own, so that a model that is served can be copied all the same."""

    def __init__(self) -> None:
        self.first: Tensor | None = None

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.first is None:  # of several versions of the images, the one that is answered for
            self.first = inputs[0].detach().flatten(1)


def _is_module(model: object) -> bool:
    return isinstance(model, nn.Module)
