"""What the three Carlini-Wagner attacks share: whom they count as fooled, and an Adam that images may leave."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparring.attacks.minimal import Nearest
from sparring.norms import per_image
from sparring.problem import Problem
from sparring.threat import Region

State = TypeVar("State")


class Finds:
    """The nearest adversarial whose margin is `confidence` or more; until there is one, the nearest of any margin."""

    def __init__(self, problem: Problem, confidence: float) -> None:
        self.confidence = confidence
        self.sure = Nearest(problem)
        self._unsure = Nearest(problem) if confidence else self.sure

    def offer(self, problem: Problem, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Take over what is better; returns which points (M,) are adversarial with the wanted confidence."""
        met = problem.solved(logits)
        if self.confidence:
            self._unsure.offer(rows, points, met)
            met = met & (-problem.margins(logits) >= self.confidence)
        self.sure.offer(rows, points, met)
        return met

    def settled(self, problem: Problem, search_steps: int, enough: float) -> Tensor:
        """What was found (N, C, H, W) for all images of `problem`, drawn in by `search_steps` forward passes."""
        if not self.confidence:
            self.sure.draw_in(problem, search_steps, enough)
        return torch.where(per_image(self.sure.found, self.sure.points), self.sure.points, self._unsure.points)


@dataclass(frozen=True, eq=False)
class Adam:
    """Moments of the gradients (Kingma & Ba 2015), image by image: each image has an age, may start anew and leave.

    With `shared` all pixels of an image are divided by one number, their root mean square, so that the step keeps the
    direction of the gradient: what l2 wants. Without, every pixel has its own, and the first steps are those of a sign:
    what linf wants. The second moment forgets after about 100 gradients (0.99), not 1,000: the runs are short.
    """

    first: Tensor
    second: Tensor
    age: Tensor
    FIRST, SECOND = 0.9, 0.99

    @classmethod
    def start(cls, images: Tensor, *, shared: bool) -> Adam:
        """No gradients yet."""
        age = images.new_zeros(len(images))
        return cls(torch.zeros_like(images), per_image(age, images) if shared else torch.zeros_like(images), age)

    def after(self, grad: Tensor) -> Adam:
        """With one gradient (N, C, H, W) more."""
        square = grad.square()
        if self.second.shape != grad.shape:
            square = per_image(square.flatten(1).mean(1), grad)
        return Adam(
            torch.lerp(grad, self.first, self.FIRST), torch.lerp(square, self.second, self.SECOND), self.age + 1
        )

    def direction(self) -> Tensor:
        """The step (N, C, H, W) for a learning rate of 1: about 1 in root mean square."""
        first = self.first / per_image(1 - self.FIRST**self.age, self.first)
        second = self.second / per_image(1 - self.SECOND**self.age, self.first)
        return first / second.sqrt().clamp_min(torch.finfo(first.dtype).tiny)

    def where(self, mask: Tensor) -> Adam:
        """Started anew where `mask` (N,) is false."""
        keep = per_image(mask, self.first)
        return Adam(self.first * keep, self.second * keep, self.age * mask)

    def select(self, mask: Tensor) -> Adam:
        """The images where `mask` (N,) is true."""
        return Adam(self.first[mask], self.second[mask], self.age[mask])


def selected(state: State, mask: Tensor) -> State:
    """A dataclass of tensors (N, ...) and of things with a `select`, for the images where `mask` (N,) is true."""
    values: dict[str, Any] = {field.name: getattr(state, field.name) for field in fields(state)}  # type: ignore[arg-type]
    return type(state)(**{name: v[mask] if isinstance(v, Tensor) else v.select(mask) for name, v in values.items()})


def movable(region: Region, points: Tensor, uphill: Tensor) -> Tensor:
    """`uphill` (N, C, H, W) without the components that a pixel at the end of its box cannot follow."""
    stuck = ((points >= region.upper) & (uphill > 0)) | ((points <= region.lower) & (uphill < 0))
    return uphill.masked_fill(stuck, 0.0)
