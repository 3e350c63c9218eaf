"""What an attack works on: a batch of images with its goal, its allowed region, its random streams and its bill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from sparring.batching import Plan, laid_out
from sparring.errors import InputError, ModelError, UnsupportedError
from sparring.goal import Goal, Targeted
from sparring.ledger import Ledger as Ledger
from sparring.ledger import added_up as added_up
from sparring.losses import Loss, class_margin, margin, resolve
from sparring.model import Model, logits_of
from sparring.rng import Streams
from sparring.threat import Region, Threat, ThreatModel, rounded


@dataclass(frozen=True, eq=False)
class Gradient:
    """Gradient of the loss at some points (N, C, H, W), with the loss (N,) and logits (N, K) it came from."""

    grad: Tensor
    values: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Rival:
    """The nearest rival class of the label at some points: gradient (N, C, H, W) and value (N,) of z_rival - z_label,
    the logits (N, K), and the distances (N, k) by which it was chosen.
    """

    grad: Tensor
    values: Tensor
    logits: Tensor
    distances: Tensor


Distance = Callable[[Tensor, Tensor, slice], Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """Images that share a model, a threat and a goal; `rows` are their places in the ledger.

    `aim`, where given, is what the losses are about; `goal` still says when an image is solved. Calls to the model
    are split evenly into batches as `plan` says. Every pass is counted per image. With `draws` above 1 a model with
    randomness is asked that often at every point: losses and gradients are averaged (Athalye et al. 2018), and the
    logits are those of the draw farthest from the goal, so that a lucky draw solves nothing.
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
    draws: int = 1

    @classmethod
    def build(cls, model: Model, images: Tensor, goal: Goal, threat: Threat, streams: Streams, plan: Plan) -> Problem:
        """A fresh problem with an empty ledger.

        Attacks on a ball find a `ThreatModel` in `threat`, those on other threats ask `perturbations.base.threat_of`
        for theirs; `Attack.check_threat` keeps the two apart.
        """
        n = len(images)
        return cls(
            model,
            images,
            goal,
            cast(ThreatModel, threat),
            threat.around(images),
            streams,
            Ledger.empty(n),
            torch.arange(n),
            plan,
        )

    def __len__(self) -> int:
        return len(self.images)

    def select(self, chosen: Tensor) -> Problem:
        """The images where `chosen` (N,) is true, or at these places (also twice); ledger and streams are shared."""
        return Problem(
            self.model,
            self.images[chosen],
            self.goal.select(chosen),
            self.threat,
            self.region.select(chosen),
            self.streams.select(chosen),
            self.ledger,
            self.rows[chosen.cpu()],
            self.plan,
            None if self.aim is None else self.aim.select(chosen),
            self.draws,
        )

    def aiming(self, targets: Tensor) -> Problem:
        """The same problem with losses that pull each image to its class of `targets` (N,), away from a known label.

        The goal stays what it is: any wrong class will do, if that was the goal.
        """
        label = None if isinstance(self.goal, Targeted) else self.goal.labels
        return replace(self, aim=Targeted(targets, label))

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
            parts = [self._answer(points[part], self.goal.select(part)) for part in self._parts()]
        self.ledger.count(self.rows, self.draws)
        return self.ledger.heard(parts)

    def logits_at(self, points: Tensor, owners: Tensor) -> Tensor:
        """Logits (Q, K) at any number of points (Q, C, H, W); counts each as a forward of its owner, the image whose
        place in this problem is in `owners` (Q,). No point, no call.
        """
        asked = self.goal.select(owners)
        with torch.no_grad():
            parts = [self._answer(points[part], asked.select(part)) for part in self._parts(len(points))]
        self.ledger.count(self.rows[owners.cpu()], self.draws)
        return self.ledger.heard(parts) if parts else points.new_zeros((0, 2))

    def gradient(self, points: Tensor, loss: str | Loss) -> Gradient:
        """Gradient of the per-image `loss` at `points`. Counts one forward and one backward per image.

        NaN components become 0 and are noted. Raises `UnsupportedError` where the model offers no gradient.
        """
        grads, values, logits = torch.zeros_like(points), [], []
        for part in self._parts():
            aim = (self.aim or self.goal).select(part)
            drawn_values, drawn_logits = [], []
            for _ in range(self.draws):
                x = laid_out(points[part], self.plan.channels_last).requires_grad_()
                with torch.enable_grad():
                    z = self._forward(x)
                    value = self._loss(z, loss, aim)
                    grads[part] += _input_gradient(value.sum() / self.draws, x)
                drawn_values.append(value.detach())
                drawn_logits.append(z.detach())
            values.append(torch.stack(drawn_values).mean(0))
            logits.append(_farthest(drawn_logits, self.goal.select(part)))
        self.ledger.count(self.rows, self.draws, self.draws)
        return Gradient(self._finite(grads), torch.cat(values), self.ledger.heard(logits))

    def nearest_rival(self, points: Tensor, classes: Tensor, distance: Distance) -> Rival:
        """Of the classes (N, k) of each image, the one whose boundary with its label is nearest as `distance` judges.

        `distance` takes the gradients (M, k, C, H, W) and values (M, k) of z_class - z_label, and the slice of the
        images they belong to; it returns (M, k). Counts one forward and k backwards per image.
        """
        grads, rest = torch.empty_like(points), []
        for part in self._parts():
            gradients, leads, logits = self._jacobian(points[part], classes[part], self.goal.select(part))
            far = distance(gradients, leads, part)
            chosen = (torch.arange(len(far), device=far.device), far.argmin(1))
            grads[part] = gradients[chosen]
            rest.append((leads[chosen], logits, far))
        self.ledger.count(self.rows, self.draws, self.draws * classes.shape[1])
        values, answers, distances = zip(*rest, strict=True)
        return Rival(grads, torch.cat(values), self.ledger.heard(list(answers)), torch.cat(distances))

    def loss_values(self, logits: Tensor, loss: str | Loss, owners: Tensor | None = None) -> Tensor:
        """The loss of logits already at hand: of every image (N,), or of those that `logits_at` gave `owners` (Q,)."""
        goal = self.aim or self.goal
        return self._loss(logits, loss, goal if owners is None else goal.select(owners))

    def solved(self, logits: Tensor) -> Tensor:
        """Bool (N,): the goal is met by more than rounding, so that another batch would find the same."""
        known = logits.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # infinite logits are not rounded
        spread, size = known.amax(1) - known.amin(1), known.abs().amax(1)
        doubt = 1e-5 * spread + 4 * torch.finfo(logits.dtype).eps * size
        return self.goal.is_met(logits) & (-self.margins(logits) > doubt)

    def margins(self, logits: Tensor) -> Tensor:
        """How far each image (N,) is from meeting the goal, in logits; negative where it is met."""
        return self.goal.sign * class_margin(logits, self.goal.reference)

    def shortfalls(self, logits: Tensor) -> Tensor:
        """How far each image (N,) is from what the losses aim at, in logits; without an aim, the margins."""
        return -margin(logits, self.aim or self.goal)

    def _jacobian(self, points: Tensor, classes: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
        """z_class - z_label of one batch: gradients (M, k, C, H, W), values (M, k); and the logits (M, K)."""
        grads, values, answers = points.new_zeros((*classes.shape, *points.shape[1:])), [], []
        for _ in range(self.draws):
            x = laid_out(points, self.plan.channels_last).requires_grad_()
            with torch.enable_grad():
                z = self._forward(x)
                leads = z.gather(1, classes) - z.gather(1, goal.reference[:, None])
                for column, lead in enumerate(leads.unbind(1)):
                    last = column == classes.shape[1] - 1
                    grads[:, column] += _input_gradient(lead.sum() / self.draws, x, keep_graph=not last)
            values.append(leads.detach())
            answers.append(z.detach())
        return self._finite(grads), torch.stack(values).mean(0), _farthest(answers, goal)

    def _finite(self, grads: Tensor) -> Tensor:
        """`grads` with NaN taken as 0, and a note if there was any."""
        if bool(grads.isfinite().all()):
            return grads
        self.ledger.notes["some input gradients were not finite; NaN was taken as 0"] = None
        return grads.nan_to_num_(nan=0.0)

    def _parts(self, n: int | None = None) -> Iterator[slice]:
        n = len(self) if n is None else n
        batches = -(-n // self.plan.batch_size)
        edges = [n * i // max(batches, 1) for i in range(batches + 1)]
        return (slice(a, b) for a, b in pairwise(edges))

    def _answer(self, points: Tensor, goal: Goal) -> Tensor:
        x = laid_out(points, self.plan.channels_last)
        return _farthest([self._forward(x) for _ in range(self.draws)], goal)

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


def _farthest(draws: list[Tensor], goal: Goal) -> Tensor:
    """Of several answers (N, K) to the same question, image by image the one farthest from the goal."""
    if len(draws) == 1:
        return draws[0]
    leads = torch.stack([-goal.sign * class_margin(logits, goal.reference) for logits in draws])
    return torch.stack(draws)[leads.argmin(0), torch.arange(len(leads[0]), device=leads.device)]


def check_classes(goal: Goal, classes: int) -> None:
    """Raise `InputError` where a label or target does not exist in a model with `classes` classes."""
    highest = int(goal.reference.max()) if len(goal.reference) else 0
    if highest >= classes:
        what = "target" if isinstance(goal, Targeted) else "label"
        raise InputError(f"{what} {highest} does not exist: the model has {classes} classes, 0 to {classes - 1}")


def named(images: object) -> str:
    """What `images` are instead of a tensor, and how an array becomes one."""
    kind = type(images).__name__
    if kind != "ndarray":
        return kind
    return "ndarray: torch.from_numpy(images), and .permute(0, 3, 1, 2) behind it where the channels stand last"


def check_images(images: Tensor, bounds: tuple[float, float]) -> None:
    """Raise `InputError` unless `images` is a non-empty, finite float batch inside `bounds`; say how to mend it."""
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a torch tensor (N, C, H, W), got {named(images)}")
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


def _input_gradient(value: Tensor, x: Tensor, *, keep_graph: bool = False) -> Tensor:
    grad: Tensor | None = None
    if value.requires_grad:
        try:
            (grad,) = torch.autograd.grad(value, x, retain_graph=keep_graph, allow_unused=True)
        except RuntimeError as error:
            message = str(error).splitlines()[0]
            raise ModelError(f"the model's backward pass failed: {message}") from error
    if grad is None:
        raise UnsupportedError(
            "the model's output carries no gradient to its input (a non-differentiable step, no_grad or detach inside "
            "forward): use attacks that need only logits, such as 'random_noise'"
        )
    return grad
