"""Mend a gradient: candidates for detours around what blocks or distorts it, judged by how well they attack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.diagnosis.blockers import Trace, traced
from sparring.diagnosis.detours import Detour, Detoured, explained, works_element_by_element
from sparring.errors import SparringError
from sparring.goal import Untargeted
from sparring.losses import class_margin
from sparring.model import Model, frozen_eval, logits_of
from sparring.problem import check_classes
from sparring.threat import ThreatModel

STEPS = 8
WIDTHS = (0.25, 1.0)
ENTRANCES = 3
"""Submodules, the first that run, before which a detour from the image itself is tried."""
AFFINE = 0.5
"""Share of variance that an affine map of the image must explain there."""
JUDGED_ON = 32


@dataclass(frozen=True, eq=False)
class Repair:
    """The detoured model, the names of what stopped the gradient, and mean margins (N images) that a short attack
    leaves with the model's own gradient (None: it has none) and with the detour's.
    """

    model: Detoured
    blocked: tuple[str, ...]
    own: float | None
    mended: float
    images: int

    def __str__(self) -> str:
        own = "has no gradient to follow" if self.own is None else f"leaves a mean margin of {self.own:.3g}"
        where = ", ".join(map(repr, self.blocked)) if self.blocked else "no single submodule"
        ways = ", ".join(f"{detour.kind} {detour.to!r}" for detour in self.model.detours)
        return (
            f"it stops at {where}; on {self.images} images a short attack with the model's own gradient {own}, "
            f"with a detour ({ways}) a mean margin of {self.mended:.3g}"
        )


def repaired(model: Model, images: Tensor, labels: Tensor, threat: ThreatModel) -> Repair | None:
    """The best detour for `model`, if one makes a short attack on images (N, C, H, W) clearly stronger; else None."""
    if not isinstance(model, nn.Module) or not any(True for _ in model.children()):
        return None
    images, labels = images[:JUDGED_ON], labels[:JUDGED_ON]
    with torch.random.fork_rng(devices=[]), frozen_eval(model):
        check_classes(Untargeted(labels), _answers(model, images).shape[1])
        trace = traced(model, images, labels)
        own = margin_left(model, images, labels, threat)
        best: tuple[float, Detoured] | None = None
        for detours in candidates(model, trace, images):
            try:
                detoured = Detoured(model, detours, images)
                left = margin_left(detoured, images, labels, threat)
            except (SparringError, RuntimeError):
                continue
            if left is not None and (best is None or left < best[0]):
                best = (left, detoured)
        clean = float(class_margin(_answers(model, images), labels).mean())
    if best is None or (own is not None and best[0] > own - 0.05 * abs(clean - own) - 0.02 * abs(clean)):
        return None
    return Repair(best[1], blocking(trace), own, best[0], len(images))


def blocking(trace: Trace) -> tuple[str, ...]:
    """Names of the innermost submodules at which the gradient of some image ends; where it is lost between modules, or
    before the first, the one it came from.
    """
    names = [visit.name for visit in trace.visits if visit.leaf and bool(visit.blocked.any())]
    names = names or [visit.name for visit in trace.visits if bool(visit.blocked.any())][-1:]
    if not names and not bool(trace.reached.all()):
        last = next((visit for visit in trace.visits if bool(visit.reached.any())), None)
        names = [] if last is None else [f"what runs before {last.name}"]
    return tuple(dict.fromkeys(names))


def candidates(model: nn.Module, trace: Trace, images: Tensor) -> Iterator[tuple[Detour, ...]]:
    """Detours worth a try, one combination after the other."""
    blocked = [v for v in trace.visits if bool(v.blocked.any())]
    leaves = [v.name for v in blocked if v.leaf] or [v.name for v in blocked[-1:]]
    leaves = list(dict.fromkeys(leaves))
    for width in WIDTHS if leaves else ():
        yield tuple(Detour(name, "through", width) for name in leaves)
    soft = _elementwise(model, trace)
    if soft and soft != leaves:
        for width in WIDTHS:
            yield tuple(Detour(name, "through", width) for name in soft)
    order = [v.name for v in trace.visits]
    for entrance in _entrances(trace, images):
        later = [name for name in leaves if order.index(name) > order.index(entrance)]
        later = [name for name in later if name != entrance and not name.startswith(f"{entrance}.")] or later
        yield (Detour(entrance, "skip"),)
        if later:
            yield (Detour(entrance, "skip"), *(Detour(name, "through") for name in later))


def _elementwise(model: nn.Module, trace: Trace) -> list[str]:
    """Leaves without weights that work element by element, in the order they ran."""
    found = []
    for visit in trace.visits:
        module = model.get_submodule(visit.name)
        if visit.leaf and visit.left is not None and not any(True for _ in module.parameters()):
            changed = visit.left.shape == visit.entered.shape and not torch.equal(visit.left, visit.entered)
            if changed and works_element_by_element(module, visit.entered.detach()):
                found.append(visit.name)
    return list(dict.fromkeys(found))


def _entrances(trace: Trace, images: Tensor) -> list[str]:
    found = []
    for visit in trace.visits:
        h = visit.entered.detach()
        same = h.shape == images.shape and torch.equal(h, images) and _equal(trace.gradient, visit.entered.grad)
        if not same and bool(visit.reached.any()) and explained(images, h) > AFFINE:
            found.append(visit.name)
    return list(dict.fromkeys(found))[:ENTRANCES]


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def margin_left(model: Model, images: Tensor, labels: Tensor, threat: ThreatModel) -> float | None:
    """The mean over images of the smallest margin on the way of a short attack; None without a gradient."""
    region, points = threat.around(images), images
    smallest = class_margin(_answers(model, images), labels)
    size = 2.5 * threat.eps / STEPS if threat.norm != "l0" else 2 * (threat.bounds[1] - threat.bounds[0])
    for _ in range(STEPS):
        x = points.detach().clone().requires_grad_()
        try:
            with torch.enable_grad():
                value = -class_margin(logits_of(model, x).float(), labels).sum()
            (grad,) = torch.autograd.grad(value, x)
        except (SparringError, RuntimeError):
            return None
        points = region.advance(points, grad.nan_to_num(nan=0.0), size)
        smallest = torch.minimum(smallest, class_margin(_answers(model, points), labels))
    return float(smallest.clamp_min(-1e-3 * smallest.abs().max()).mean())


def _answers(model: Model, images: Tensor) -> Tensor:
    with torch.no_grad():
        return logits_of(model, images).float()
