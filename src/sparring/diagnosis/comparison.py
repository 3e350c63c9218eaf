"""Models side by side, for who must choose one: accuracy, robustness, sensitivity, gradient health, cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparring.diagnosis.health import saturated
from sparring.diagnosis.lipschitz import chain, lead_gradients
from sparring.diagnosis.result import ModelRow, Models, Share
from sparring.diagnosis.taylor import gradient
from sparring.diagnosis.work import forward_multiplications
from sparring.errors import InputError
from sparring.estimate import Estimate
from sparring.evaluation import evaluate
from sparring.evaluation.task import Images, Subset
from sparring.model import Model, device_of, frozen_eval, logits_of
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
    """One row per model by name: clean and robust accuracy on images (N, C, H, W) with labels (N,) under the attacks of
    `effort`, how steep its margins are, whether its gradients are fit to be followed, what it costs.

    progress: called with the name of each model. Raises what `evaluate` raises, and `InputError` for no model.
    """
    if not models:
        raise InputError("models is empty: name at least one")
    rows = []
    for name, model in models.items():
        if progress is not None:
            progress(name)
        rows.append(_row(name, model, images, labels, threat, effort, seed))
    return Models(threat=f"{threat.norm} eps {threat.eps_text}", images=len(labels), effort=effort, rows=tuple(rows))


def _row(name: str, model: Model, images: Images, labels: Tensor, threat: Threat, effort: str, seed: int) -> ModelRow:
    found = evaluate(model, images, labels, threat, effort=effort, seed=seed, keep=False)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:SAMPLE].tolist()
    first = images[0:1]
    x = Subset(images, sorted(order))[0 : len(order)].detach().to(device_of(model, first))
    y = labels[torch.tensor(sorted(order))].to(x.device)
    with frozen_eval(model):
        steep = lead_gradients(model, x, y).median()
        _, grad = gradient(model, x, y, "cross_entropy")
        alive = (grad.flatten(1) != 0).any(1)
        flat = saturated(model, x, y)
        milliseconds = 1000 * _seconds(model, x) / len(x)
    module = isinstance(model, nn.Module)
    return ModelRow(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else None,
        multiplications=forward_multiplications(model, x[:1]) if isinstance(model, nn.Module) else None,
        milliseconds=milliseconds,
        clean=_share(found.clean_accuracy),
        robust=_share(found.robust_accuracy),
        warnings=found.warnings,
        steepness=float(steep),
        layer_norms=_layers(model, x[0]) if module else None,
        zero_gradients=float((~alive).float().mean()),
        flat_units=max((a.share for a in flat), default=0.0),
        flattest=max(flat, key=lambda a: a.share).name if flat else None,
        passes=sum(r.forwards + r.backwards for r in found.records) / max(1, len(found.records)),
    )


def _share(estimate: Estimate) -> Share:
    return Share(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)


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
