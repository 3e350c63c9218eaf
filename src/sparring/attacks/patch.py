"""Adversarial patch on one picture: where to stick it, what to paint (Karmon et al. 2018, arXiv:1801.02608)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparring import losses
from sparring.attacks.ascent import Best, ascend, step_schedule
from sparring.attacks.base import Attack, at_least
from sparring.losses import Loss
from sparring.perturbations.base import threat_of
from sparring.perturbations.patch import Patch
from sparring.problem import Problem
from sparring.threat import Region


@dataclass(frozen=True, kw_only=True)
class PatchAttack(Attack):
    """Searches a place for one patch per image, then paints it by signed gradient steps within the whole box.

    The place: the gradient at the image says, to first order, what a spot could gain at every place. Of the `proposals`
    best that do not overlap much, each is painted with one steepest step and tried; the `places` that came nearest to
    the goal are then painted in earnest, one after the other, with `steps` gradients each. step_size: of the first
    step, as a share of the box; steps shrink by a cosine. loss: what is climbed, and what ranks places.
    """

    threats: ClassVar[tuple[str, ...]] = ("patch",)
    paper: ClassVar[str] = "Karmon, Zoran & Goldberg, LaVAN: Localized and Visible Adversarial Noise, ICML 2018"

    steps: int = 40
    places: int = 3
    proposals: int = 150
    step_size: float = 0.25
    loss: str | Loss = "margin"

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("steps", self.steps, 1, whole=True)
        at_least("places", self.places, 1, whole=True)
        at_least("proposals", self.proposals, self.places, whole=True)
        at_least("step_size", self.step_size, 0)

    def run(self, problem: Problem) -> Tensor:
        """The best patch found per image; the image itself where the area is less than a pixel."""
        threat = threat_of(problem, Patch)
        spot = threat.spot(problem.images.shape[2:]).to(problem.images.device)
        best = Best(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        if spot.numel() == 0:
            return best.points
        grad = problem.gradient(problem.images, self.loss).grad
        found = self._ranked(problem, spot, grad, best)
        rows = torch.where(found[:, 0] >= 0)[0]
        problem, found, grad = problem.select(found[:, 0] >= 0), found[rows], grad[rows]
        low, high = threat.bounds
        sizes = step_schedule("cosine", self.step_size * (high - low), self.steps)
        for rank in range(min(self.places, found.shape[1])):
            if len(rows) == 0:
                break
            region = _inside(problem.region, masks(found[:, rank], spot, problem.images))
            painted = replace(problem, region=region)
            left = ascend(painted, _steepest(region, grad), best, rows, loss=self.loss, step_sizes=sizes)
            keep = torch.isin(rows, left)
            problem, rows, found, grad = problem.select(keep), left, found[keep], grad[keep]
        return best.points

    def _ranked(self, problem: Problem, spot: Tensor, grad: Tensor, best: Best) -> Tensor:
        """Places (N, proposals) as flat indices, the most promising first; -1 for an image that a proposal solved."""
        gain = (_steepest(problem.region, grad) - problem.images).mul(grad).sum(1, keepdim=True)
        found = peaks(functional.conv2d(gain, spot[None, None].to(gain)).squeeze(1), spot.shape, self.proposals)
        values = torch.full(found.shape, -torch.inf, dtype=torch.float64, device=grad.device)
        solved = torch.zeros(len(problem), dtype=torch.bool, device=grad.device)
        for number, place in enumerate(found.T):
            rows = (~solved).nonzero().flatten()
            if len(rows) == 0:
                break
            part = problem.select(~solved)
            points = _steepest(_inside(part.region, masks(place[rows], spot, part.images)), grad[rows])
            logits = part.logits(points)
            value = part.loss_values(logits, self.loss).double().nan_to_num(nan=-torch.inf)
            best.offer(rows, points, part.goal.is_met(logits), value)
            values[rows, number] = value
            solved[rows] = part.solved(logits)
        found = found.gather(1, values.argsort(dim=1, descending=True, stable=True))
        return found.masked_fill(solved[:, None], -1)


def peaks(score: Tensor, spot: torch.Size, count: int) -> Tensor:
    """The `count` (fewer where there are fewer) highest places (N, count) of `score` (N, h, w), as flat indices of the
    upper left corner, with those that overlap a chosen one by more than half put last.
    """
    n, height, width = score.shape
    left = score.clone()
    apart = (score.amax((1, 2)) - score.amin((1, 2)) + 1).view(n, 1, 1)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.to(score.device), x.to(score.device)
    chosen: list[Tensor] = []
    for _ in range(min(count, height * width)):
        place = left.flatten(1).argmax(1)
        chosen.append(place)
        near_y = (y - (place // width).view(n, 1, 1)).abs() * 2 < spot[0]
        near_x = (x - (place % width).view(n, 1, 1)).abs() * 2 < spot[1]
        left = torch.where(near_y & near_x, left - apart, left)
        left.flatten(1).scatter_(1, place[:, None], -torch.inf)
    return torch.stack(chosen, 1)


def masks(place: Tensor, spot: Tensor, images: Tensor) -> Tensor:
    """Bool (N, 1, H, W): the pixels of `spot` (h, w) with its corner at the flat index `place` (N,)."""
    n, _, height, width = images.shape
    columns = width - spot.shape[1] + 1
    offsets = (spot.nonzero() @ torch.tensor([width, 1], device=spot.device)).expand(n, -1)
    corner = (place // columns) * width + place % columns
    flat = torch.zeros(n, height * width, dtype=torch.bool, device=images.device)
    return flat.scatter_(1, corner[:, None] + offsets, True).view(n, 1, height, width)


def _inside(region: Region, mask: Tensor) -> Region:
    x = region.originals
    return replace(region, lower=region.lower.where(mask, x), upper=region.upper.where(mask, x))


def _steepest(region: Region, grad: Tensor) -> Tensor:
    """The corner of the region that the gradient points to."""
    return torch.where(grad > 0, region.upper, torch.where(grad < 0, region.lower, region.originals))
