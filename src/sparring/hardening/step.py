"""One step: images become points, points a loss, the loss a change of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring.hardening.augment import augmented
from sparring.hardening.awp import perturbed_weights
from sparring.hardening.draws import Draws, seed_of
from sparring.hardening.grad_align import misalignment
from sparring.hardening.hat import helper_loss
from sparring.hardening.method import Batch, Criterion, Method
from sparring.hardening.parallel import Learner, Workers
from sparring.hardening.recipe import Recipe
from sparring.threat import ThreatModel


def in_pieces(recipe: Recipe, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A step's images and labels in the pieces that it is computed in."""
    pieces = min(recipe.accumulate, len(images))
    return zip(images.chunk(pieces), labels.chunk(pieces), strict=True)


@dataclass(eq=False)
class Stepper:
    """Method, extras and workers put together; it holds no state but the method's memory."""

    module: nn.Module
    learner: Learner
    workers: Workers
    threat: ThreatModel
    seed: int
    standard: nn.Module | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def batch(
        self, method: Method, recipe: Recipe, images: Tensor, labels: Tensor, step: int, progress: float, piece: int = 0
    ) -> Batch:
        """This process's images of step `step`, augmented, with the budget of the moment and draws of their own."""
        where = self.workers.rank, piece
        if recipe.augment:
            images = augmented(
                images,
                recipe.augment,
                Draws(len(images), seed_of(self.seed, "augment", step // method.repeats, *where)),
            )
        eps = recipe.budget(self.threat.eps, progress)
        return Batch(
            self.learner,
            self.module,
            images,
            labels,
            self.threat if eps == self.threat.eps else self.threat.with_eps(eps),
            Draws(len(images), seed_of(self.seed, "craft", step, *where)),
            Criterion(recipe.label_smoothing, recipe.loss),
            self.memory,
            eps / self.threat.eps if self.threat.eps else 1.0,
        )

    def gradients(
        self, method: Method, recipe: Recipe, images: Tensor, labels: Tensor, step: int, progress: float
    ) -> Tensor:
        """Add the gradients of the step to the weights, piece by piece; returns the mean loss, detached."""
        total = images.new_zeros(())
        for number, (x, y) in enumerate(in_pieces(recipe, images, labels)):
            batch = self.batch(method, recipe, x, y, step, progress, number)
            with self.precision(recipe):
                loss = self._piece(method, recipe, batch, progress, len(x) / len(images))
            total = total + loss
        return total

    def precision(self, recipe: Recipe) -> AbstractContextManager[object]:
        """bfloat16 where it was asked for: it has float32's range, so no loss needs scaling.

        Autocast keeps a copy of every weight that it has converted; one made before the weights are perturbed would
        hide the perturbation from the pass that learns.
        """
        if not recipe.amp:
            return nullcontext()
        return torch.autocast(self.workers.device.type, dtype=torch.bfloat16, cache_enabled=not recipe.awp)

    def _piece(self, method: Method, recipe: Recipe, batch: Batch, progress: float, weight: float) -> Tensor:
        points = method.craft(batch)

        def objective() -> Tensor:
            loss = method.loss(batch, points)
            if recipe.grad_align:
                loss = loss + recipe.grad_align * misalignment(batch)
            if recipe.hat and self.standard is not None:
                loss = loss + recipe.hat * helper_loss(batch, points, self.standard)
            return loss * weight

        if not recipe.awp or progress < recipe.awp_warmup:
            loss = objective()
            self.workers.backward(loss)
            return loss.detach()
        bare = Batch(**{**vars(batch), "learner": self.module})  # nothing is sent while the weights are perturbed
        with perturbed_weights(self.module, lambda: method.loss(bare, points), recipe.awp):
            loss = objective()
            self.workers.backward(loss)
        return loss.detach()
