"""Models side by side, for who must choose one: accuracy, robustness, sensitivity, gradient health, cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparring.auditing.audit import audit
from sparring.auditing.report import Interval, Report
from sparring.auditing.request import sample
from sparring.black_box import access_of
from sparring.diagnosis.health import saturated
from sparring.diagnosis.lipschitz import chain, lead_gradients
from sparring.diagnosis.result import ModelRow, Models, Saturation, Share
from sparring.diagnosis.taylor import gradient
from sparring.diagnosis.work import forward_multiplications
from sparring.errors import InputError, SparringError
from sparring.evaluation.task import Images, Subset
from sparring.model import Model, device_of, frozen_eval, hookable, logits_of
from sparring.rng import seeded
from sparring.threat import Threat

SAMPLE = 32
"""Images for what looks at gradients."""
TIMED = 3
"""Calls of the model that are timed; the fastest counts."""


def compare_models(
    models: Mapping[str, Model],
    images: Images,
    labels: Tensor,
    threat: Threat,
    *,
    effort: str = "quick",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Models:
    """One row per model by name: clean and robust accuracy on images (N, C, H, W) with labels (N,) as an audit of
    `effort` finds them, with its remedies for masked gradients; how steep its margins are, whether its gradients are
    fit to be followed, what it costs.

    progress: called with the name of each model. Raises what `audit` raises, and `InputError` for no model.
    """
    if not models:
        raise InputError("models is empty: name at least one")
    rows = []
    for name, model in models.items():
        if progress is not None:
            progress(name)
        found = audit(model, images, labels, threat, effort=effort, seed=seed, model_label=name)
        with seeded(seed, "compare"):
            rows.append(_row(name, model, found, *_sample(model, images, labels, seed)))
    return Models(threat=f"{threat.norm} eps {threat.eps_text}", images=len(labels), effort=effort, rows=tuple(rows))


def _sample(model: Model, images: Images, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Some of the images and their labels, where the model is."""
    rows = sample(len(labels), SAMPLE, seed)
    x = Subset(images, rows)[0 : len(rows)].detach().to(device_of(model, images[0:1]))
    return x, labels[torch.tensor(rows)].to(x.device)


def _row(name: str, model: Model, found: Report, images: Tensor, labels: Tensor) -> ModelRow:
    module = model if isinstance(model, nn.Module) and access_of(model) == "gradients" else None
    seen = module is not None and hookable(module)
    steep, zero, flat = _health(model, images, labels)
    with frozen_eval(model):
        milliseconds = 1000 * _seconds(model, images) / len(images)
    records = found.evaluation.records
    return ModelRow(
        name=name,
        parameters=None if module is None else sum(p.numel() for p in module.parameters()),
        multiplications=forward_multiplications(module, images[:1]) if module is not None and seen else None,
        milliseconds=milliseconds,
        clean=_share(found.evaluation.clean_accuracy),
        robust=_share(found.evaluation.robust_accuracy),
        doubts=tuple(f.code for f in found.findings if f.undermines and not f.resolved),
        remedied=tuple(f.code for f in found.findings if f.undermines and f.resolved),
        steepness=steep,
        layer_norms=None if module is None else _layers(module, images[0]),
        zero_gradients=zero,
        flat_units=max((a.share for a in flat), default=0.0) if seen else None,
        flattest=max(flat, key=lambda a: a.share).name if flat else None,
        passes=sum(r.forwards + r.backwards for r in records) / max(1, len(records)),
    )


def _health(model: Model, images: Tensor, labels: Tensor) -> tuple[float | None, float | None, tuple[Saturation, ...]]:
    """Median steepness, share of zero gradients, activations with flat units; None where no gradient is shown."""
    if access_of(model) != "gradients":
        return None, None, ()
    with frozen_eval(model):
        try:
            _, grad = gradient(model, images, labels, "cross_entropy")
        except (SparringError, RuntimeError):  # nothing in the answers leads back to the images
            return None, 1.0, ()
        steep = float(lead_gradients(model, images, labels).median())
        return steep, float((grad.flatten(1) == 0).all(1).float().mean()), saturated(model, images, labels)


def _share(interval: Interval) -> Share:
    return Share(value=interval.value or 0.0, low=interval.low, high=interval.high, n=interval.n)


def _layers(model: Model, image: Tensor) -> float | None:
    """The product of the layers' norms, where the model is a chain of known ones."""
    total = 1.0
    try:
        for layer in chain(model, image):
            total *= layer.norm
    except (ValueError, KeyError):
        return None
    return total


def _seconds(model: Model, images: Tensor) -> float:
    """The fastest of a few calls."""
    best = float("inf")
    with torch.no_grad():
        for _ in range(TIMED):
            start = time.perf_counter()
            logits_of(model, images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            best = min(best, time.perf_counter() - start)
    return best
