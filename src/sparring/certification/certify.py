"""The public call: a model and images in, a certificate out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sparring.certification.bounds import (
    ROWS,
    WORK,
    intervals,
    kept,
    margins,
    most_numbers,
    tightened,
    with_better_slopes,
)
from sparring.certification.certificate import Certificate, identity
from sparring.certification.graph import refuse_stacks, trace
from sparring.certification.layers import Layer
from sparring.certification.lipschitz import pair_bounds, radii
from sparring.certification.region import Domain, full_precision, slack
from sparring.certification.smoothing import Smoothing
from sparring.errors import InputError, UnsupportedError, unknown
from sparring.goal import Untargeted
from sparring.model import Model, device_of, frozen_eval, logits_of
from sparring.problem import check_images
from sparring.rng import Streams, digests
from sparring.threat import ThreatModel

METHODS = ("crown", "crown-ibp", "ibp", "smoothing", "lipschitz")
AT_ONCE = 64
Report = Callable[[int, int], None]


def certify(
    model: Model,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    method: str = "crown",
    slopes: int = 0,
    radius: int = 0,
    work: int = WORK,
    smoothing: Smoothing | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Report | None = None,
) -> Certificate:
    """What no attack within `threat` (linf or l2) can break, image by image.

    images (N, C, H, W) in the threat's box, labels (N,). method: "ibp" propagates intervals; "crown-ibp" draws lines
    back from the logits over these intervals; "crown" (default) tightens the intervals by lines first, in layers of at
    most `work` values; "lipschitz" divides the margin by the product of operator norms; "smoothing" certifies the
    smoothed classifier that `smoothing` describes, in l2, not the model. slopes: steps of gradient ascent on the lines
    of the ReLUs ("crown", "crown-ibp"). radius: halvings in search of each image's largest budget up to twice `eps`,
    0 for none (smoothing and lipschitz always give radii). batch_size: images at once, None to choose.
    progress: called with images done and their number.

    Raises `UnsupportedError` for a threat or a layer that the method has no bounds for, and for a stack.
    """
    if method not in METHODS:
        raise InputError(unknown("method", method, list(METHODS)))
    if not isinstance(threat, ThreatModel) or threat.norm not in ("linf", "l2"):
        raise UnsupportedError(f"certificates are for linf and l2 balls, not for {getattr(threat, 'norm', threat)}")
    if method == "smoothing" and threat.norm != "l2":
        raise UnsupportedError(f"smoothing certifies l2 balls, not {threat.norm}: choose another method or norm")
    _check_numbers(slopes=slopes, radius=radius, work=work, batch_size=1 if batch_size is None else batch_size)
    check_images(images, threat.bounds)
    refuse_stacks(model)
    device = device_of(model, images)
    images, labels = images.detach().to(device), Untargeted(labels).labels.to(device)
    if len(labels) != len(images):
        raise InputError(f"labels must be one per image, got {len(labels)} for {len(images)}")
    if method == "smoothing":
        found = _smoothed(model, images, labels, threat, smoothing or Smoothing(), seed, progress)
    else:
        graph = trace(model, images, bounds=threat.bounds)
        with frozen_eval(model), torch.no_grad(), full_precision():
            layers = graph.layers()
            _check_labels(labels, layers[-1].shape[0])
            if method == "lipschitz":
                found = _by_lipschitz(model, layers, images, labels, threat, batch_size or AT_ONCE, progress)
            else:
                bounder = Bounder(layers, threat, method, slopes, work)
                found = _by_bounds(model, bounder, images, labels, radius, batch_size, progress)
    named = tuple(Streams(0, "", digests(images)).names)
    return replace(found, region=threat.key(), model=identity(model, images, threat.bounds), images=named)


def _check_numbers(**given: int) -> None:
    for name, value in given.items():
        least = 1 if name == "batch_size" else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")


def _check_labels(labels: Tensor, classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(f"labels must lie in 0..{classes - 1} for this model, got {sorted(set(labels.tolist()))[:8]}")


class Bounder:
    """Lower bounds of the margins of a batch, by one of the three ways to bound."""

    def __init__(self, layers: list[Layer], threat: ThreatModel, method: str, slopes: int, work: int) -> None:
        self.layers, self.threat, self.method, self.slopes, self.work = layers, threat, method, slopes, work

    def least(self, images: Tensor, labels: Tensor, eps: Tensor | None = None) -> Tensor:
        """The least margin over all rivals, (N,), for the threat's budget or one per image."""
        domain = Domain.build(self.threat, images, eps)
        bounds = self.layers, domain
        known = tightened(*bounds, self.work) if self.method == "crown" else intervals(*bounds)
        by_intervals = margins(self.layers, known, labels, domain, "ibp")
        if self.method == "ibp":
            return by_intervals.amin(1)
        if self.slopes:
            lines = with_better_slopes(self.layers, known, labels, domain, self.slopes)
        else:
            lines = margins(self.layers, known, labels, domain, "crown")
        return torch.maximum(lines, by_intervals).amin(1)

    def largest(self, images: Tensor, labels: Tensor, halvings: int) -> Tensor:
        """The largest budget up to twice the threat's for which the least margin is above 0, from below."""
        high = torch.full((len(images),), 2 * self.threat.eps, dtype=torch.float64, device=images.device)
        low = torch.where(self.least(images, labels, high) > 0, high, torch.zeros_like(high))
        for _ in range(halvings):
            middle = (low + high) / 2
            held = self.least(images, labels, middle) > 0
            low, high = torch.where(held, middle, low), torch.where(held, high, middle)
        return low

    def notes(self) -> tuple[str, ...]:
        """What could be tighter at a higher price."""
        large = kept(self.layers, self.threat.norm, self.work) if self.method == "crown" else []
        sizes = ", ".join(f"{layer.where} ({math.prod(layer.shape):,} values)" for layer in large)
        most = max((math.prod(layer.shape) for layer in large), default=0)
        return (f"interval bounds are kept at {sizes}; work={most} tightens them by lines, too",) if large else ()

    def at_once(self, like: Tensor) -> int:
        """Images whose coefficients fit into the memory that is meant for them, with some rows each."""
        widest = max(math.prod(layer.shape) for layer in self.layers)
        rows = 2 * (ROWS if self.method == "crown" else self.layers[-1].shape[0])
        return max(1, min(AT_ONCE, most_numbers(like) // (rows * widest)))


def _by_bounds(
    model: Model,
    bounder: Bounder,
    images: Tensor,
    labels: Tensor,
    radius: int,
    batch_size: int | None,
    progress: Report | None,
) -> Certificate:
    size = batch_size or bounder.at_once(images)
    lowers, reaches, said = [], [], []
    for start in range(0, len(images), size):
        x, y = images[start : start + size], labels[start : start + size]
        said.append(logits_of(model, x.clone()).argmax(1))  # a copy: the model may work in place
        lowers.append(bounder.least(x, y))
        if radius:
            reaches.append(bounder.largest(x, y, radius))
        if progress is not None:
            progress(min(start + size, len(images)), len(images))
    lower, prediction, threat = torch.cat(lowers), torch.cat(said), bounder.threat
    certified = (lower > 0) & (prediction == labels)
    reach = torch.where(prediction == labels, torch.cat(reaches), 0.0) if radius else None
    if reach is not None:
        reach = torch.where(certified, reach.clamp_min(threat.eps), reach)
    return Certificate(
        bounder.method,
        subject_of(images.dtype),
        threat.norm,
        threat.eps,
        labels,
        prediction,
        certified,
        lower,
        reach,
        notes=bounder.notes(),
    )


def subject_of(dtype: torch.dtype) -> str:
    """Of whom bounds speak, and how surely."""
    allowance = f"{slack(dtype):.0e} of the sums they come from"
    return f"the model itself, deterministically; bounds are lowered by {allowance}, for rounding"


def _by_lipschitz(
    model: Model,
    layers: list[Layer],
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    batch_size: int,
    progress: Report | None,
) -> Certificate:
    answers = []
    for start in range(0, len(images), batch_size):
        answers.append(logits_of(model, images[start : start + batch_size].clone()))
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images))
    logits = torch.cat(answers)
    loss = slack(images.dtype) * logits.abs().amax(1, keepdim=True)  # what rounding may add to both logits of a margin
    least = logits.scatter_add(1, labels.unsqueeze(1), -2 * loss)
    reach = radii(least, labels, pair_bounds(layers, threat.norm)).clamp_min(0)
    certified = reach > threat.eps + threat.tolerance(images)
    return Certificate(
        "lipschitz",
        "the model itself, deterministically, by a global Lipschitz bound; the box is not used",
        threat.norm,
        threat.eps,
        labels,
        logits.argmax(1),
        certified & (logits.argmax(1) == labels),
        torch.full_like(reach, math.nan),
        reach,
    )


def _smoothed(
    model: Model,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    how: Smoothing,
    seed: int,
    progress: Report | None,
) -> Certificate:
    said, reach = how.certify(model, images, seed=seed, progress=progress)
    said, reach = said.to(labels.device), reach.to(labels.device)
    certified = (said == labels) & (reach >= threat.eps + threat.tolerance(images))
    notes = []
    if threat.eps > how.ceiling:
        notes.append(
            f"no image can be certified at {threat.eps:g}: with sigma {how.sigma:g} and {how.n} draws the ceiling is "
            f"{how.ceiling:.3g}"
        )
    return Certificate(
        "smoothing",
        f"the smoothed model, noise of sigma {how.sigma:g} and {how.n} draws, with probability "
        f"{100 * (1 - how.alpha):g} % per image; not the model itself",
        threat.norm,
        threat.eps,
        labels,
        said,
        certified,
        torch.full((len(images),), math.nan),
        reach,
        said == -1,
        how.ceiling,
        tuple(notes),
    )
