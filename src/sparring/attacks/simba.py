"""SimBA (Guo et al. 2019, arXiv:1905.07121): one direction of an orthonormal basis after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack, at_least, checked_choice
from sparring.attacks.windows import Canvas
from sparring.errors import InputError
from sparring.losses import Loss
from sparring.norms import per_image
from sparring.problem import Problem

BASES = ("pixel", "dct")


@dataclass(frozen=True, kw_only=True)
class SimBA(Attack):
    """Tries a step along a random basis direction, then the step back along it, and keeps the one that helps.

    queries: forward passes per image, at most. basis: "pixel", or "dct" for cosine waves, low frequencies first.
    frequencies: share of each side's frequencies that come first; after them the next ring of as many (1/8). step: in
    image units; None in l2 for 0.2 of the range of values, but at most eps/5, and in linf for what takes a direction's
    largest entry from one end of the budget to the other. Steps beyond the budget are projected back. loss: the margin,
    where the paper has the label's probability, which rounds to 1 on confident models.
    """

    access: ClassVar[str] = "logits"
    threats: ClassVar[tuple[str, ...]] = ("l2", "linf")
    paper: ClassVar[str] = "Guo et al., Simple Black-box Adversarial Attacks, ICML 2019"

    queries: int = 5000
    basis: str = "pixel"
    frequencies: float = 0.125
    step: float | None = None
    loss: str | Loss = "margin"

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        at_least("queries", self.queries, 1, whole=True)
        checked_choice("basis", self.basis, BASES)
        at_least("frequencies", self.frequencies, 0)
        if not 0 < self.frequencies <= 1:
            raise InputError(f"frequencies is a share above 0 and at most 1, got {self.frequencies!r}")
        if self.step is not None:
            at_least("step", self.step, 0)

    def run(self, problem: Problem) -> Tensor:
        """The best point per image; each image goes through the basis in an order of its own."""
        best = Best(problem)
        canvas = Canvas.of(problem.images, problem.threat)
        rows = torch.arange(len(problem), device=problem.images.device)
        order = self._order(problem, canvas)
        turn = torch.zeros_like(rows)  # direction turn // 2 of the order, forward if turn is even
        for query in range(self.queries if order.shape[1] else 0):
            candidates = here = best.points[rows]
            if query > 0:
                candidates = self._stepped(problem, canvas, here, order, turn)
                idle = (candidates == here).flatten(1).all(1)
                if bool(idle.any()):  # a pixel at its end: the next step instead, no query for the same image
                    turn = turn + idle
                    candidates = self._stepped(problem, canvas, here, order, turn)
            logits = problem.logits(candidates)
            values = problem.loss_values(logits, self.loss)
            helped = values > best.values[rows]
            best.offer(rows, candidates, problem.goal.is_met(logits), values)
            if query > 0:
                turn = torch.where(helped, turn // 2 * 2 + 2, turn + 1)
            solved = problem.solved(logits)
            if bool(solved.any()):
                keep = ~solved
                problem, rows, order, turn = problem.select(keep), rows[keep], order[keep], turn[keep]
            if len(rows) == 0:
                break
        return best.points

    def _stepped(self, problem: Problem, canvas: Canvas, here: Tensor, order: Tensor, turn: Tensor) -> Tensor:
        """Each image one step along its direction of `order`, in the budget."""
        chosen = order.gather(1, (turn // 2 % order.shape[1])[:, None]).squeeze(1)
        step = self._waves(canvas, chosen, here) * _sign(turn, here)
        low, high = problem.threat.bounds
        if self.step is not None:
            step = self.step * step
        elif problem.threat.norm == "linf":
            step = 2 * problem.threat.eps * step / step.abs().amax(tuple(range(1, step.dim())), keepdim=True)
        else:
            step = min(0.2 * (high - low), problem.threat.eps / 5) * step
        return problem.region.project(here + step)

    def _order(self, problem: Problem, canvas: Canvas) -> Tensor:
        """Places of the basis (N, D) in the order of trial, random within a ring; only pixels that may change."""
        shape = (canvas.channels, canvas.height, canvas.width)
        keys = canvas.seen(problem.streams.uniform(problem.images.shape[1:], problem.images)).clone()
        if self.basis == "dct":
            rings = [
                (torch.arange(size, device=keys.device) / max(1, math.ceil(self.frequencies * size))).long()
                for size in shape[1:]
            ]
            keys += torch.maximum(rings[0][:, None], rings[1][None, :])
        count = keys[0].numel()
        if problem.threat.mask is not None:
            open_ = canvas.seen(problem.threat.mask_for(problem.images)[None])
            count = int(open_.sum()) if self.basis == "pixel" else count * int(open_.any())
            keys += 2 * keys[0].numel() * ~open_ if self.basis == "pixel" else 0
        return keys.flatten(1).argsort(dim=1, stable=True)[:, :count]

    def _waves(self, canvas: Canvas, chosen: Tensor, like: Tensor) -> Tensor:
        """The basis direction of each image, shaped like `like` (N, C, H, W)."""
        if self.basis == "pixel":
            return torch.zeros_like(like.flatten(1)).scatter_(1, chosen[:, None], 1.0).view_as(like)
        place = chosen % (canvas.height * canvas.width)
        down, across = (_cosines(size, like) for size in (canvas.height, canvas.width))
        picture = down[place // canvas.width][:, :, None] * across[place % canvas.width][:, None, :]
        waves = torch.zeros_like(canvas.seen(like))
        waves[torch.arange(len(chosen)), chosen // (canvas.height * canvas.width)] = picture
        return waves.view_as(like)


def _cosines(size: int, like: Tensor) -> Tensor:
    """The orthonormal cosine basis (DCT-II) of `size` numbers, one wave per row."""
    grid = torch.arange(size, dtype=torch.float64, device=like.device)
    waves = torch.cos(math.pi / size * grid[:, None] * (grid[None, :] + 0.5))
    return (waves / waves.square().sum(1, keepdim=True).sqrt()).to(like.dtype)


def _sign(turn: Tensor, like: Tensor) -> Tensor:
    return per_image((1 - 2 * (turn % 2)).to(like.dtype), like)
