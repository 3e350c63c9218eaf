"""One perturbation for all images (Moosavi-Dezfooli et al. 2017), found by gradient ascent (Shafahi et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import default_step_size
from sparring.attacks.base import at_least, check_goal
from sparring.batching import laid_out, plan
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.goal import Goal, Targeted, Untargeted
from sparring.losses import Loss
from sparring.model import Model, frozen_eval, logits_of
from sparring.problem import check_classes, check_images
from sparring.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class UniversalPerturbation:
    """`delta` (C, H, W), added to any image and clipped to the box of `threat`."""

    delta: Tensor
    threat: ThreatModel

    def apply(self, images: Tensor) -> Tensor:
        """The perturbed images (N, C, H, W), inside box and budget."""
        low, high = self.threat.bounds
        return (images + self.delta.to(images)).clamp(low, high)

    def fooling_rate(self, model: Model, images: Tensor, *, target: int | None = None) -> Estimate:
        """Share of `images` whose prediction the perturbation changes (the paper's measure), with its 95 % interval.

        target: instead, share of those not predicted as `target` before that are so afterwards. Measure it on images
        that were not used to find the perturbation. A perturbed image that left box or budget does not count.
        """
        check_images(images, self.threat.bounds)
        perturbed = self.apply(images)
        fits = self.threat.contains(images, perturbed)
        before, after = _predictions(model, images), _predictions(model, perturbed)
        if target is None:
            return proportion(int((fits & (after != before)).sum()), len(images))
        asked = before != target
        return proportion(int((fits & asked & (after == target)).sum()), int(asked.sum()))


def universal_perturbation(
    model: Model,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    epochs: int = 10,
    step_size: float | None = None,
    batch_size: int = 64,
    loss: str | Loss = "margin",
    target: int | None = None,
    seed: int = 0,
) -> UniversalPerturbation:
    """One delta in the ball of `threat` (and under its mask) that fools `model` on as many of `images` as it can.

    Steps climb the summed loss of a batch: along the sign of its gradient (linf) or the steepest direction of the norm,
    shrinking linearly from `step_size` (image units; None for eps). Shafahi et al. cap the cross-entropy so that images
    already lost do not drown the others; the margin, whose gradient does not grow, needs no cap. images: (N, C, H, W);
    some hundreds do. labels: int64 (N,). target: the class that all images are to be taken for; without it, any
    wrong one. Raises `InputError` for unusable input.
    """
    check_images(images, threat.bounds)
    goal: Goal = Untargeted(labels) if target is None else Targeted(torch.full_like(labels, target))
    check_goal(goal, len(images))
    goal = goal.to(images.device)
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        at_least(name, value, 1, whole=True)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be a whole number >= 0, got {seed!r}")
    size = default_step_size(threat, 1, "linear") if step_size is None else step_size
    at_least("step_size", size, 0)
    low, high = threat.bounds
    box = ThreatModel(threat.norm, threat.eps, (low - high, high - low), threat.mask)
    start = torch.zeros_like(images[:1])
    region, delta, images = box.around(start), start, images.detach()
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(epochs)]).to(images.device)
    how = plan(model, images, batch_size)
    with frozen_eval(model), how.running():
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            x, aim = laid_out(images[rows], how.channels_last), goal.select(rows)
            grad = _gradient(model, x, delta, aim, loss, (low, high))
            delta = region.advance(delta, grad, size * (1 - first / len(order)))
    return UniversalPerturbation(delta[0], threat)


def _gradient(
    model: Model, images: Tensor, delta: Tensor, goal: Goal, loss: str | Loss, box: tuple[float, float]
) -> Tensor:
    """Gradient (1, C, H, W) of the summed losses with respect to the shared delta."""
    shared = delta.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = logits_of(model, (images + shared).clamp(*box))
        check_classes(goal, logits.shape[1])
        function, _ = losses.resolve(loss, logits.shape[1], targeted=isinstance(goal, Targeted))
        (grad,) = torch.autograd.grad(function(logits, goal).sum(), shared)
    return grad.nan_to_num(nan=0.0)


def _predictions(model: Model, images: Tensor) -> Tensor:
    size = plan(model, images).batch_size
    with frozen_eval(model), torch.no_grad():
        return torch.cat([logits_of(model, images[i : i + size]).argmax(1) for i in range(0, len(images), size)])
