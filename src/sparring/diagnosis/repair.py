"""Mend a gradient: candidates for detours around what blocks or distorts it, judged by how well they attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.black_box import access_of
from sparring.diagnosis.blockers import Trace, traced
from sparring.diagnosis.detours import Detour, Detoured, works_element_by_element
from sparring.diagnosis.fits import Joint, Spread, explained
from sparring.diagnosis.gaps import Gap, gaps
from sparring.errors import SparringError
from sparring.goal import Untargeted
from sparring.losses import class_margin
from sparring.model import Model, frozen_eval, hookable, logits_of
from sparring.problem import check_classes
from sparring.threat import ThreatModel

STEPS = 8
WIDTHS = (0.25, 0.5, 1.0)
ENTRANCES = 3
"""Submodules, the first that run, before which a detour from the image itself is tried."""
AFFINE = 0.5
"""Share of variance that an affine map of the image must explain there."""
BETTER = 0.01
"""What a function per channel must explain beyond that to be tried, too."""
SMOOTH = 0.9
"""Share that an elementwise function must explain of what happens between two submodules to stand in for it."""
JUDGED_ON = 32
OTHERS = 3
"""Detours besides the best one that an audit goes, too."""


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
        return (
            f"it stops at {where}; on {self.images} images a short attack with the model's own gradient {own}, "
            f"with a detour ({self.model.ways}) a mean margin of {self.mended:.3g}"
        )


def repaired(model: Model, images: Tensor, labels: Tensor, threat: ThreatModel) -> Repair | None:
    """The best detour for `model`, if one makes a short attack on images (N, C, H, W) clearly stronger; else None, as
    for a model that shows no gradients, or that no pass there and back can be made through.
    """
    if not isinstance(model, nn.Module) or not hookable(model) or not any(True for _ in model.children()):
        return None
    if access_of(model) != "gradients":
        return None
    images, labels = images[:JUDGED_ON], labels[:JUDGED_ON]
    with torch.random.fork_rng(devices=[]), frozen_eval(model):
        check_classes(Untargeted(labels), _answers(model, images).shape[1])
        try:
            trace = traced(model, images, labels)
        except RuntimeError:  # such as what was computed in inference mode
            return None
        own = margin_left(model, images, labels, threat)
        clean = float(class_margin(_answers(model, images), labels).mean())
        found: list[tuple[float, Detoured]] = []
        for detours in candidates(model, trace, images):
            if any(whole(detours) == whole(other.detours) for _, other in found):
                continue  # the same, cut where no cut is needed
            try:
                detoured = Detoured(model, detours, images)
                left = margin_left(detoured, images, labels, threat)
            except (SparringError, RuntimeError):
                continue
            if left is not None and (own is None or left < own - 0.05 * abs(clean - own) - 0.02 * abs(clean)):
                found.append((left, detoured))
    if not found:
        return None
    (least, best), *rest = sorted(found, key=lambda one: one[0])
    best.others = [detoured for _, detoured in rest[:OTHERS]]
    stops = blocking(trace) or (("what runs under no_grad",) if trace.closed else ())
    return Repair(best, stops, own, least, len(images))


def whole(detours: Sequence[Detour]) -> list[Detour]:
    """The same without cuts."""
    return [replace(detour, cut=False) for detour in detours]


def blocking(trace: Trace) -> tuple[str, ...]:
    """Names of the innermost submodules at which the gradient of some image ends; where it is lost between modules, of
    those on both sides, or of the one it came from.
    """
    names = [visit.name for visit in trace.visits if visit.leaf and bool(visit.blocked.any())]
    names += [str(gap) for gap in gaps(trace) if gap.blocked]
    names = names or [visit.name for visit in trace.visits if bool(visit.blocked.any())][-1:]
    if not names and not bool(trace.reached.all()):
        last = next((visit for visit in trace.visits if bool(visit.reached.any())), None)
        names = [] if last is None else [f"what runs before {last.name}"]
    return tuple(dict.fromkeys(names))


def candidates(model: nn.Module, trace: Trace, images: Tensor) -> Iterator[tuple[Detour, ...]]:
    """Detours worth a try, one combination after the other; all of them lift no_grad where a submodule ran under it."""
    opening = (Detour("", "open"),) if trace.closed else ()
    if opening:
        yield opening
    for ways in _ways(model, trace, images):
        yield (*opening, *ways)


def _ways(model: nn.Module, trace: Trace, images: Tensor) -> Iterator[tuple[Detour, ...]]:
    """Detours around what blocks or bends a gradient that is recorded."""
    blocked = [v for v in trace.visits if bool(v.blocked.any())]
    between = gaps(trace)
    bridged = [gap for gap in between if gap.blocked]
    leaves = [v.name for v in blocked if v.leaf] or ([] if bridged else [v.name for v in blocked[-1:]])
    leaves = list(dict.fromkeys(leaves))
    yield from _inside(leaves, bridged)
    soft = _elementwise(model, trace)
    smooth = [gap for gap in between if Joint.fitted(gap.before, gap.after).explained > SMOOTH]
    if (soft, smooth) != (leaves, bridged):
        yield from _inside(soft, smooth)
    order = [v.name for v in trace.visits]
    for entrance, ways in _entrances(trace, images):
        yield from ((way,) for way in ways)
        later = [name for name in leaves if order.index(name) > order.index(entrance)]
        later = [name for name in later if name != entrance and not name.startswith(f"{entrance}.")] or later
        beyond = [gap for gap in bridged if order.index(gap.start) >= order.index(entrance)]
        if later or beyond:
            yield from ((way, *next(_inside(later, beyond))) for way in ways)


def _inside(names: Sequence[str], bridged: Sequence[Gap]) -> Iterator[tuple[Detour, ...]]:
    """Through some submodules and across some gaps, with slopes smoothed over several widths."""
    for width in WIDTHS if names or bridged else ():
        for cut in (False, True) if bridged else (False,):
            through = (Detour(name, "through", width) for name in names)
            yield (*through, *(Detour(gap.to, "bridge", width, gap.start, cut) for gap in bridged))


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


def _entrances(trace: Trace, images: Tensor) -> list[tuple[str, list[Detour]]]:
    """Submodules before which a detour from the image may lead, and such detours."""
    found: dict[str, list[Detour]] = {}
    for visit in trace.visits:
        h = visit.entered.detach()
        same = h.shape == images.shape and torch.equal(h, images) and _equal(trace.gradient, visit.entered.grad)
        if same or visit.name in found or not bool(visit.reached.any()) or len(found) == ENTRANCES:
            continue
        flat, spread = explained(images, h), Spread.fitted(images, h)
        ways = [Detour(visit.name, "skip")] if flat > AFFINE else []
        if spread is not None and spread.explained > max(SMOOTH, flat + BETTER):
            ways += [Detour(visit.name, "spread", width) for width in WIDTHS]
        if ways:
            found[visit.name] = ways
    return list(found.items())


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
