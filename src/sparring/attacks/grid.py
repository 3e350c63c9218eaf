"""Adversarials that can be saved as pictures: 8-bit values inside the budget (after Carlini & Wagner 2017)."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.attacks.ascent import Best
from sparring.attacks.base import at_least
from sparring.attacks.wrapper import Wrapper
from sparring.goal import Goal
from sparring.model import Model, frozen_eval, logits_of
from sparring.norms import NORMS
from sparring.problem import Problem
from sparring.threat import Region

Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Grid(Wrapper):
    """What `attack` finds, moved to the 256 values per channel that a picture file holds, never beyond the budget.

    Each pixel goes to one of the two values around it: where the margin's gradient points, or towards its original
    where the budget is too tight for that. An adversarial that this undoes is given up to `repairs` greedy steps from
    value to value, one gradient each: along the steeper half of the coordinates, then a quarter, and so on down to one.
    If `attack` needs no gradients, pixels go to the nearest value, and nothing is mended. A pixel that began between
    two values keeps its own where mask or budget leave no other.
    """

    paper: ClassVar[str] = "Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017"

    repairs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("repairs", self.repairs, 0, whole=True)
        object.__setattr__(self, "threats", tuple(norm for norm in self.attack.threats if norm in NORMS))

    def run(self, problem: Problem) -> Tensor:
        """The best points on the grid; for an image that was no adversarial before, where rounding left it."""
        best, rows = Best(problem), torch.arange(len(problem), device=problem.images.device)
        points = self.attack.run(replace(problem, region=_aligned(problem.region, problem.threat.bounds)))
        white = self.access == "gradients"
        for attempt in range(1 + self.repairs if white else 1):
            at = problem.gradient(points, "margin") if white else None
            grad = None if at is None else at.grad
            if attempt and grad is not None:
                grad = _steepest(grad, max(1, grad[0].numel() >> attempt))
                points = problem.region.advance(points, grad, _step(problem))
            points = snapped(problem.region, problem.threat.bounds, points, grad)
            logits = problem.logits(points)
            best.offer(rows, points, problem.goal.is_met(logits), problem.loss_values(logits, "margin"))
            left = ~problem.solved(logits)
            if attempt == 0 and at is not None:
                left &= problem.goal.is_met(at.logits)  # only what was an adversarial is mended
            problem, points, rows = problem.select(left), points[left], rows[left]
            if len(rows) == 0:
                break
        return best.points


def snapped(region: Region, bounds: Bounds, points: Tensor, grad: Tensor | None = None) -> Tensor:
    """The points of `region` with every pixel at one of the two 8-bit values around it, same shape.

    That is the value which `grad` prefers, or without it the nearest, and in linf both fit. In other norms pixels go
    first to whatever is nearest to the original; what then is left of the budget is spent on the best bargains.
    """
    origin, at = region.originals.flatten(1).double(), points.flatten(1).double()
    down, up = _around(region, bounds, points)
    slope = torch.zeros_like(at) if grad is None else grad.flatten(1).double()
    want = torch.where(torch.where(slope == 0, at - down > up - at, slope > 0), up, down)
    if region.norm != "linf":
        safe = torch.clamp(origin, down, up)
        gain = (safe - at if grad is None else slope * (want - safe)).abs()
        owed = _cost(region.norm, safe - origin)
        price = _cost(region.norm, want - origin) - owed
        order = (gain / price.clamp_min(1e-12)).argsort(dim=1, descending=True, stable=True)
        purse = region.eps ** (2 if region.norm == "l2" else 1) - owed.sum(1, keepdim=True)
        bought = torch.zeros_like(at).scatter_(1, order, (price.gather(1, order).cumsum(1) <= purse).double())
        want = torch.where(bought > 0, want, safe)
    return want.to(points.dtype).view_as(points)


def through_png(images: Tensor, bounds: Bounds = (0.0, 1.0)) -> Tensor:
    """Images (N, C, H, W) as whoever opens the file sees them: saved as PNG and read again, in memory, by Pillow.

    One channel becomes a grey picture, three a colour one; of any other number each channel becomes one of its own.
    """
    low, high = bounds
    values = ((images.double() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    rows = values.shape[-2:] if values.dim() > 2 else (1, *values.shape[1:])
    colour = values.dim() == 4 and values.shape[1] == 3
    pictures = (values.permute(0, 2, 3, 1) if colour else values.reshape(-1, *rows)).contiguous().numpy()
    read = torch.from_numpy(np.stack([_saved_and_read(picture) for picture in pictures])).double()
    planes = read.permute(0, 3, 1, 2) if colour else read.reshape(values.shape)
    return (low + planes / 255 * (high - low)).to(images)


def survives_8bit(model: Model, adversarials: Tensor, goal: Goal, bounds: Bounds = (0.0, 1.0)) -> Tensor:
    """Bool (N,): the goal is still met after the adversarials (N, C, H, W) were saved as PNG and read again."""
    with frozen_eval(model), torch.no_grad():
        logits = [logits_of(model, through_png(part, bounds)) for part in torch.split(adversarials, 64)]
    return goal.is_met(torch.cat(logits))


def _saved_and_read(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    with Image.open(file) as read:
        return np.array(read)


def _around(region: Region, bounds: Bounds, points: Tensor) -> tuple[Tensor, Tensor]:
    """The 8-bit values below and above every pixel (N, D), float64: twice the same where only one is allowed, and
    twice the original where none is.
    """
    origin = region.originals.flatten(1).double()
    ends = [_level(points, bounds, rounding).flatten(1).double() for rounding in (torch.floor, torch.ceil)]
    unmoved = 1e-4 * (bounds[1] - bounds[0]) / 255  # an original on the grid stays itself to the last bit
    below, above = (torch.where((end - origin).abs() < unmoved, origin, end) for end in ends)
    slack = torch.finfo(points.dtype).eps * max(abs(bound) for bound in bounds)
    fits_below = below >= region.lower.flatten(1).double() - slack
    fits_above = above <= region.upper.flatten(1).double() + slack
    down = torch.where(fits_below, below, torch.where(fits_above, above, origin))
    up = torch.where(fits_above, above, torch.where(fits_below, below, origin))
    return down, up


def _level(points: Tensor, bounds: Bounds, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """The 8-bit value that `rounding` chooses; points that are one already, but for float rounding, stay."""
    low, high = bounds
    place = (points.double() - low) / (high - low) * 255
    nearest = place.round()
    place = torch.where((place - nearest).abs() < 1e-4, nearest, rounding(place)).clamp(0, 255)
    return (low + place / 255 * (high - low)).to(points.dtype)


def _aligned(region: Region, bounds: Bounds) -> Region:
    """In linf the same region with its ends on 8-bit values, so that points at its ends need no rounding."""
    if region.norm != "linf":
        return region
    lower = torch.minimum(_level(region.lower, bounds, torch.ceil), region.originals)
    upper = torch.maximum(_level(region.upper, bounds, torch.floor), region.originals)
    return replace(region, lower=lower, upper=upper)


def _steepest(grad: Tensor, count: int) -> Tensor:
    """`grad` with all but the `count` largest entries of each image set to zero."""
    flat = grad.flatten(1)
    kept = torch.zeros_like(flat).scatter_(1, flat.abs().topk(count, dim=1).indices, 1)
    return (flat * kept).view_as(grad)


def _step(problem: Problem) -> float:
    """Length of a repair's step: one value in linf, the whole range in l0, else a tenth of the budget."""
    low, high = problem.threat.bounds
    return {"linf": (high - low) / 255, "l0": high - low}.get(problem.region.norm, problem.region.eps / 10)


def _cost(norm: str, delta: Tensor) -> Tensor:
    """What each coordinate takes of the budget (of its square in l2)."""
    if norm == "l2":
        return delta.square()
    return delta.abs() if norm == "l1" else (delta != 0).double()
