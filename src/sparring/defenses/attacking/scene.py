"""Images that stand against one stack: what an attacker may ask it, in batches, with fresh randomness at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparring.defenses.sight import Sight
from sparring.defenses.stack import Stack
from sparring.errors import UnsupportedError
from sparring.losses import class_margin
from sparring.rng import Streams
from sparring.threat import Region, Threat


@dataclass(frozen=True, eq=False)
class Aims:
    """What objectives need to know of each image: its label, a class to reach, and the logits (N, K) and features
    (N, F) of a clean image of that class, to be matched.
    """

    labels: Tensor
    targets: Tensor | None = None
    logits: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> Aims:
        """Those of some images; an image may come more than once."""
        return Aims(
            self.labels[rows],
            None if self.targets is None else self.targets[rows],
            None if self.logits is None else self.logits[rows],
            {name: values[rows] for name, values in self.features.items()},
        )


Objective = Callable[[Sight, Aims], tuple[Tensor, ...]]
"""One or two values (M,) per image, to be made large."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Of M points: the share of draws that evade, how far from evading, and the lead of the label, means over draws."""

    rate: Tensor
    gap: Tensor
    lead: Tensor


@dataclass
class Bill:
    """Images asked about, forward and backward."""

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True, eq=False)
class Scene:
    """N images with their labels and allowed region. `keys`: one per image, from which its randomness comes; `scale`: a
    typical clean margin of the stack; `batch`: images that the model takes at once.
    """

    stack: Stack
    images: Tensor
    labels: Tensor
    threat: Threat
    region: Region
    keys: list[bytes]
    seed: int
    batch: int
    scale: float
    bill: Bill

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: Tensor) -> Scene:
        """Some of the images."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            region=self.region.select(rows),
            keys=[self.keys[i] for i in rows.tolist()],
        )

    def streams(self, purpose: str) -> Streams:
        """The images' streams for one purpose."""
        return Streams(self.seed, purpose, self.keys)

    def judged(self, points: Tensor, purpose: str, draws: int = 1) -> Judged:
        """How the stack takes `points` (N, C, H, W), without gradients."""
        parts = []
        with torch.no_grad():
            for rows in self._parts(draws):
                sight = self._sight(points[rows], rows, purpose, draws, "declared")
                parts.append(self._judged(sight, self.labels[rows], draws))
        self.bill.forwards += draws * len(points)
        return Judged(*(torch.cat([getattr(part, name) for part in parts]) for name in ("rate", "gap", "lead")))

    def gradients(
        self, points: Tensor, objective: Objective, aims: Aims, purpose: str, draws: int, gradient: str
    ) -> tuple[list[Tensor], Judged]:
        """Gradients of each of the objective's values at `points`, averaged over draws; how the stack takes them."""
        grads: list[Tensor] = []
        parts = []
        for rows in self._parts(draws):
            with torch.enable_grad():
                x = points[rows].detach().clone().requires_grad_()
                sight = self._sight(x, rows, purpose, draws, gradient)
                values = objective(sight, aims.select(rows.repeat_interleave(draws)))
                own = [_gradient(v, x, draws, last=v is values[-1]) for v in values]
            parts.append(self._judged(sight, self.labels[rows], draws))
            grads = grads or [torch.zeros_like(points) for _ in own]
            for grad, found in zip(grads, own, strict=True):
                grad[rows] = found
        self.bill.forwards += draws * len(points)
        self.bill.backwards += draws * len(points)
        whole = (torch.cat([getattr(part, name) for part in parts]) for name in ("rate", "gap", "lead"))
        return grads, Judged(*whole)

    def _parts(self, draws: int) -> Iterator[Tensor]:
        size = max(1, self.batch // (self.stack.width * draws))
        return iter(torch.arange(len(self), device=self.images.device).split(size))  # type: ignore[no-untyped-call]

    def _sight(self, points: Tensor, rows: Tensor, purpose: str, draws: int, gradient: str) -> Sight:
        keys = [self.keys[i] + bytes([k]) for i in rows.tolist() for k in range(draws)]
        asked = points.repeat_interleave(draws, 0) if draws > 1 else points
        return self.stack.look(asked, Streams(self.seed, purpose, keys), gradient)

    def _judged(self, sight: Sight, labels: Tensor, draws: int) -> Judged:
        each = labels.repeat_interleave(draws)
        rate = sight.evaded(each).double().view(-1, draws).mean(1)
        gap = sight.gap(each, self.scale).detach().double().view(-1, draws).mean(1)
        lead = class_margin(sight.answers.detach(), each).double().view(-1, draws).mean(1) / self.scale
        return Judged(rate, gap.nan_to_num(nan=torch.inf), lead.nan_to_num(nan=torch.inf))


def _gradient(values: Tensor, x: Tensor, draws: int, *, last: bool) -> Tensor:
    if not values.requires_grad:
        raise UnsupportedError("the stack's output carries no gradient to its input")
    (grad,) = torch.autograd.grad(values.sum() / draws, x, retain_graph=not last, allow_unused=True)
    return torch.zeros_like(x) if grad is None else grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
