"""What an attack works on: a batch of images with its goal, its allowed region, its random streams and its bill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from sparring.batching import Plan, laid_out
from sparring.errors import InputError, ModelError, UnsupportedError
from sparring.goal import Goal, Targeted
from sparring.losses import Loss, class_margin, resolve
from sparring.model import Model, logits_of
from sparring.rng import Streams
from sparring.threat import Region, ThreatModel, rounded


@dataclass(eq=False)
class Ledger:
    """Forward and backward passes spent on each image, int64 (N,), and notes on what had to be done otherwise."""

    forwards: Tensor
    backwards: Tensor
    notes: dict[str, None] = field(default_factory=dict)

    @classmethod
    def empty(cls, n: int) -> Ledger:
        """A ledger of zeros."""
        return cls(torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Gradient:
    """Gradient of the loss at some points (N, C, H, W), with the loss (N,) and logits (N, K) it came from."""

    grad: Tensor
    values: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """Images that share a model, a threat and a goal; `rows` are their places in the ledger.

    `aim`, where given, is what the losses are about; `goal` still says when an image is solved. Calls to the model
    are split evenly into batches as `plan` says. Every pass is counted per image.
    """

    model: Model
    images: Tensor
    goal: Goal
    threat: ThreatModel
    region: Region
    streams: Streams
    ledger: Ledger
    rows: Tensor
    plan: Plan
    aim: Goal | None = None

    @classmethod
    def build(
        cls, model: Model, images: Tensor, goal: Goal, threat: ThreatModel, streams: Streams, plan: Plan
    ) -> Problem:
        """A fresh problem with an empty ledger."""
        n = len(images)
        return cls(
            model,
            images,
            goal,
            threat,
            threat.around(images),
            streams,
            Ledger.empty(n),
            torch.arange(n),
            plan,
        )

    def __len__(self) -> int:
        return len(self.images)

    def select(self, mask: Tensor) -> Problem:
        """The images where `mask` (N,) is true; ledger and streams are shared."""
        return Problem(
            self.model,
            self.images[mask],
            self.goal.select(mask),
            self.threat,
            self.region.select(mask),
            self.streams.select(mask),
            self.ledger,
            self.rows[mask.cpu()],
            self.plan,
            None if self.aim is None else self.aim.select(mask),
        )

    def aiming(self, targets: Tensor) -> Problem:
        """The same problem with losses that pull each image to its class of `targets` (N,), away from its label.

        The goal stays what it is: any wrong class will do, if that was the goal.
        """
        return replace(self, aim=Targeted(targets, self.goal.reference))

    def widened(self) -> Problem:
        """The same problem with a budget that no point of the box exceeds: what a search for the nearest needs."""
        low, high = self.threat.bounds
        size = self.images[0].numel() if len(self) else 1
        reach = (high - low) * {"linf": 1.0, "l2": size**0.5, "l1": float(size), "l0": 1.0}[self.threat.norm]
        threat = self.threat.with_eps(float(size) if self.threat.norm == "l0" else reach)
        return replace(self, threat=threat, region=threat.around(self.images))

    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K) at `points`, without gradients. Counts one forward per image."""
        with torch.no_grad():
            parts = [self._forward(laid_out(points[part], self.plan.channels_last)) for part in self._parts()]
        self.ledger.forwards[self.rows] += 1
        return torch.cat(parts)

    def gradient(self, points: Tensor, loss: str | Loss) -> Gradient:
        """Gradient of the per-image `loss` at `points`. Counts one forward and one backward per image.

        NaN components become 0 and are noted. Raises `UnsupportedError` where the model offers no gradient.
        """
        grads, values, logits = torch.empty_like(points), [], []
        for part in self._parts():
            x = laid_out(points[part], self.plan.channels_last).requires_grad_()
            with torch.enable_grad():
                z = self._forward(x)
                value = self._loss(z, loss, (self.aim or self.goal).select(part))
                grads[part] = _input_gradient(value.sum(), x)
            values.append(value.detach())
            logits.append(z.detach())
        if not bool(grads.isfinite().all()):
            self.ledger.notes["some input gradients were not finite; NaN was taken as 0"] = None
            grads = grads.nan_to_num_(nan=0.0)
        self.ledger.forwards[self.rows] += 1
        self.ledger.backwards[self.rows] += 1
        return Gradient(grads, torch.cat(values), torch.cat(logits))

    def loss_values(self, logits: Tensor, loss: str | Loss) -> Tensor:
        """The per-image loss (N,) of logits already at hand."""
        return self._loss(logits, loss, self.aim or self.goal)

    def solved(self, logits: Tensor) -> Tensor:
        """Bool (N,): the goal is met by more than rounding, so that another batch would find the same."""
        lead = -self.goal.sign * class_margin(logits, self.goal.reference)
        return self.goal.is_met(logits) & (lead > 1e-5 * (1 + logits.abs().amax(1)))

    def _parts(self) -> Iterator[slice]:
        n = len(self)
        batches = -(-n // self.plan.batch_size)
        edges = [n * i // max(batches, 1) for i in range(batches + 1)]
        return (slice(a, b) for a, b in pairwise(edges))

    def _forward(self, points: Tensor) -> Tensor:
        logits = logits_of(self.model, points)
        check_classes(self.goal, logits.shape[1])
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def _loss(self, logits: Tensor, loss: str | Loss, goal: Goal) -> Tensor:
        function, note = resolve(loss, logits.shape[1], targeted=isinstance(goal, Targeted))
        if note:
            self.ledger.notes[note] = None
        value = function(logits, goal)
        if value.shape != logits.shape[:1]:
            raise InputError(f"a loss must return one value per image ({len(logits)},), got {tuple(value.shape)}")
        return value


def check_classes(goal: Goal, classes: int) -> None:
    """Raise `InputError` where a label or target does not exist in a model with `classes` classes."""
    highest = int(goal.reference.max()) if len(goal.reference) else 0
    if highest >= classes:
        what = "target" if isinstance(goal, Targeted) else "label"
        raise InputError(f"{what} {highest} does not exist: the model has {classes} classes, 0 to {classes - 1}")


def check_images(images: Tensor, bounds: tuple[float, float]) -> None:
    """Raise `InputError` unless `images` is a non-empty, finite float batch inside `bounds`; say how to mend it."""
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a torch tensor (N, C, H, W), got {type(images).__name__}")
    if images.dim() < 2 or images[0:1].numel() == 0:
        raise InputError(f"images must have shape (N, C, H, W) with at least one image, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise InputError(f"images must be floating point, got {images.dtype}; for 0-255 use images.float() / 255")
    if not bool(images.isfinite().all()):
        where = int((~images.flatten(1).isfinite().all(1)).nonzero()[0])
        raise InputError(f"images hold NaN or infinity, first in image {where}")
    if images.dtype in (torch.float16, torch.bfloat16):
        raise InputError(
            f"images must be float32 or float64, got {images.dtype}: half precision cannot hold x + delta; pass "
            "images.float(), and let the model convert its input if it computes in half precision"
        )
    low, high = (float(end) for end in torch.aminmax(images.detach()))
    if low < rounded(bounds[0], images.dtype) or high > rounded(bounds[1], images.dtype):
        raise InputError(
            f"images must lie in [{bounds[0]:g}, {bounds[1]:g}], got [{low:.4g}, {high:.4g}]; {_range_hint(low, high)}"
        )


def _range_hint(low: float, high: float) -> str:
    if low >= 0 and high > 2:
        return "they look like 0-255: divide by 255"
    return "they look normalised: pass raw images and give the model its mean and std, or declare bounds=(low, high)"


def _input_gradient(value: Tensor, x: Tensor) -> Tensor:
    grad: Tensor | None = None
    if value.requires_grad:
        try:
            (grad,) = torch.autograd.grad(value, x, allow_unused=True)
        except RuntimeError as error:
            message = str(error).splitlines()[0]
            raise ModelError(f"the model's backward pass failed: {message}") from error
    if grad is None:
        raise UnsupportedError(
            "the model's output carries no gradient to its input (a non-differentiable step, no_grad or detach inside "
            "forward): use attacks that need only logits, such as 'random_noise'"
        )
    return grad
