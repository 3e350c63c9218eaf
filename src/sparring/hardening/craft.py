"""Perturbations for training. The weights get no gradients while they are made, and the loops are bare.

The model is in evaluation mode meanwhile (Pang et al. 2021, Bag of Tricks for Adversarial Training): batch norm uses
its running statistics and does not touch them, dropout is off, so the images of a batch do not meet in it. The pass
that learns is in training mode and sees the finished points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.errors import InputError
from sparring.hardening.method import Batch
from sparring.model import frozen_eval
from sparring.threat import Region, ThreatModel

Objective = Callable[[Tensor], Tensor]


def against_labels(batch: Batch) -> Objective:
    """The loss of the batch's labels, as a function of logits."""
    return lambda logits: batch.criterion.attack(logits, batch.labels)


def input_gradient(batch: Batch, points: Tensor, objective: Objective) -> Tensor:
    """The gradient of the summed `objective` at `points`; call it inside `frozen_eval`."""
    at = points.detach().requires_grad_()
    with torch.enable_grad():
        value = objective(batch.module(at)).sum()
        (grad,) = torch.autograd.grad(value, at)
    return grad


def leap(threat: ThreatModel, region: Region, points: Tensor, grad: Tensor, size: float) -> Tensor:
    """One steepest step of length `size` from `points`, projected back into the region."""
    if threat.norm == "linf":
        return region.advance(points, grad, size)
    step = threat.with_eps(size).around(points).steepest_step(grad)
    return region.project(points + step)


def single_step(batch: Batch, region: Region, start: Tensor, size: float) -> Tensor:
    """From `start` one steepest step of length `size` up the loss of the labels."""
    with frozen_eval(batch.module):
        grad = input_gradient(batch, start, against_labels(batch))
    return leap(batch.threat, region, start, grad, size)


def climb(batch: Batch, start: Tensor, steps: int, step_size: float | None, objective: Objective) -> Tensor:
    """`steps` projected steps from `start`; their size is 2.5·eps/steps (Madry et al. 2018) when None.

    Returns the last iterate: every image costs the same, and there is no second pass to choose the best.
    """
    region = batch.threat.around(batch.images)
    size = 2.5 * batch.threat.eps / steps if step_size is None else step_size
    points = start
    with frozen_eval(batch.module):
        for _ in range(steps):
            points = region.advance(points, input_gradient(batch, points, objective), size)
    return points


def near(batch: Batch, spread: float) -> Tensor:
    """Where TRADES begins: the images with a little normal noise, projected."""
    noise = spread * batch.draws.normal(batch.images.shape[1:], batch.images)
    return batch.threat.around(batch.images).project(batch.images + noise)


def noisy(batch: Batch, radius: float) -> Tensor:
    """The images with uniform noise of the ball of `radius`, which the box does not clip (Wong et al. 2020, on MNIST).

    Clipped, half of the noise on a black or white pixel would be none at all, and the model could learn by heart where
    such steps begin.
    """
    if batch.threat.norm == "linf" and batch.threat.mask is None:  # the same in three passes over memory, not a dozen
        drawn = batch.draws.uniform(batch.images.shape[1:], batch.images)
        return drawn.sub_(0.5).mul_(2 * radius).add_(batch.images)
    low, high = batch.threat.bounds
    wide = (low - 2 * radius, high + 2 * radius)
    ball = ThreatModel(batch.threat.norm, radius, wide, batch.threat.mask)
    return batch.draws.inside(ball.around(batch.images))


def check_steps(steps: object, step_size: object) -> None:
    """Raise `InputError` unless these are numbers of steps and a size (or None)."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a whole number >= 1, got {steps!r}")
    if step_size is not None:
        check_positive("step_size", step_size)


def check_positive(name: str, value: object, *, zero: bool = False) -> None:
    """Raise `InputError` unless `value` is a finite number above 0 (or at 0, if `zero`)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    low_enough = number and (value >= 0 if zero else value > 0)  # type: ignore[operator]
    if not low_enough or not value < float("inf"):  # type: ignore[operator]
        raise InputError(f"{name} must be a number {'>=' if zero else '>'} 0, got {value!r}")
