"""What would fail hours later, tried before the work begins: a first pass, the labels, the images of the audit."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sparring.errors import InputError, ModelError
from sparring.hardening.data import Images, Split, checked_pair
from sparring.hardening.method import Method
from sparring.hardening.modules import train_mode
from sparring.hardening.parallel import Workers
from sparring.hardening.recipe import Recipe
from sparring.hardening.step import in_pieces
from sparring.model import called, device_of, frozen_eval, logits_of
from sparring.threat import ThreatModel


def check_learns(copied: nn.Module, split: Split, method: Method, recipe: Recipe, workers: Workers) -> None:
    """Pass the smallest piece of a step through a copy of the model in training mode (the copy does not stay the same).

    Raises `InputError` for labels that the model has no class for, or steps too small for all processes, and
    `ModelError` for a model that fails or gives something else than logits while it learns.
    """
    step = split.train[: cast(int, recipe.batch_size) // method.copies]
    rows = workers.share(step)
    if not len(rows):
        raise InputError(
            f"{workers.size} processes share a step of {len(step)} images: raise batch_size, give more images, or "
            "start fewer processes"
        )
    smallest = [piece for piece, _ in in_pieces(recipe, rows, rows)][-1]
    images = split.read(smallest)[0].to(device_of(copied))
    train_mode(copied)
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []), torch.no_grad():
        logits = called(copied, images)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"in training mode the model returns {got}, not logits (N, classes): switch auxiliary outputs off "
            "(aux_logits=False), or wrap it in a module that returns the logits alone"
        )
    check_labels(split.labels, logits.shape[1])


def check_test(model: nn.Module, test: tuple[Images, Tensor], threat: ThreatModel) -> None:
    """Raise what the final audit would for these images and labels."""
    images, labels = checked_pair(test, threat)
    with frozen_eval(model), torch.no_grad():
        logits = logits_of(model, images[0:1].to(device_of(model)))
    check_labels(labels, logits.shape[1])


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise `InputError` for a label that is no class of the model."""
    largest = int(labels.max())
    if largest >= classes:
        raise InputError(
            f"label {largest} is no class of the model, which has {classes} (0 to {classes - 1}): mend the labels, or "
            "replace the model's last layer"
        )
