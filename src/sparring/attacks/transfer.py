"""Adversarials made to transfer: Nesterov, scaled, diverse and smoothed gradients in one loop (Lin et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparring import losses
from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack, at_least, checked_flag
from sparring.errors import InputError
from sparring.losses import Loss
from sparring.norms import per_image
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class TransferFGSM(Attack):
    """SI-NI-TI-DIM: momentum along gradients taken where other models would agree, for adversarials that transfer.

    v ← decay·v + g/mean|g|, then a step along v (its sign in linf), where g is the gradient smoothed by a Gaussian
    `kernel` pixels wide (1: not at all; Dong et al. 2019), averaged over `scales` copies of the image at full, half,
    quarter ... brightness (Lin et al. 2020), each with the chance `diversity` shrunk, to no less than `shrink` of its
    size, and put at a random place on the darkest value (Xie et al. 2019); `nesterov` takes it where v already leads.

    steps, decay and the rest: the paper's. step_size: in image units, None for eps/steps. early_stop: solved images
    leave at once, which costs transfer: off. From the middle on iterates are looked at until one meets the goal, then
    the last: the best one is returned.
    """

    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "Lin et al., Nesterov Accelerated Gradient and Scale Invariance, ICLR 2020"

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    nesterov: bool = True
    scales: int = 5
    diversity: float = 0.5
    shrink: float = 0.9
    kernel: int = 7
    loss: str | Loss = "cross_entropy"
    early_stop: bool = False

    def __post_init__(self) -> None:
        losses.checked(self.loss)
        for name in ("steps", "scales", "kernel"):
            at_least(name, getattr(self, name), 1, whole=True)
        for name in ("decay", "diversity", "shrink"):
            at_least(name, getattr(self, name), 0)
        if self.step_size is not None:
            at_least("step_size", self.step_size, 0)
        checked_flag("nesterov", self.nesterov)
        checked_flag("early_stop", self.early_stop)
        if self.kernel % 2 == 0:
            raise InputError(f"kernel must be an odd number of pixels, got {self.kernel}")
        if self.diversity > 1 or not 0 < self.shrink <= 1:
            raise InputError(
                f"diversity is a chance from 0 to 1 and shrink a share above 0 and up to 1, "
                f"got {self.diversity:g} and {self.shrink:g}"
            )

    def run(self, problem: Problem) -> Tensor:
        """The best iterate per image."""
        size = problem.threat.eps / self.steps if self.step_size is None else self.step_size
        best, rows = Best(problem), torch.arange(len(problem), device=problem.images.device)
        points, velocity = problem.images, torch.zeros_like(problem.images)
        for step in range(1, self.steps + 1):
            grad = self._gradient(problem, self._ahead(problem, points, velocity, size))
            velocity = self.decay * velocity + grad / _mean_size(grad)
            points = problem.region.advance(points, velocity, size)
            asked = ~best.met[rows] | (step == self.steps)  # of an image once met, only the last iterate matters
            if not self.early_stop and 2 * step < self.steps:  # less than half-way out: hardly ever the best
                asked = torch.zeros_like(asked)
            keep = ~asked
            keep[asked] = ~self._look(problem.select(asked), points[asked], best, rows[asked])
            if self.early_stop and not bool(keep.all()):
                problem, points, velocity, rows = problem.select(keep), points[keep], velocity[keep], rows[keep]
                if len(rows) == 0:
                    break
        return best.points

    def _look(self, problem: Problem, points: Tensor, best: Best, rows: Tensor) -> Tensor:
        """Offer iterates to `best`; bool (M,), the solved ones."""
        if len(rows) == 0:
            return rows > 0
        logits = problem.logits(points)
        best.offer(rows, points, problem.goal.is_met(logits), problem.loss_values(logits, self.loss))
        return problem.solved(logits)

    def _ahead(self, problem: Problem, points: Tensor, velocity: Tensor, size: float) -> Tensor:
        """Where the gradient is taken: with Nesterov's look ahead, inside the box."""
        if not self.nesterov:
            return points
        if problem.region.norm == "l2":
            return problem.region.advance(points, velocity, self.decay * size)
        return torch.clamp(points + self.decay * size * velocity, *problem.threat.bounds)

    def _gradient(self, problem: Problem, points: Tensor) -> Tensor:
        """The gradient at `points`, averaged over scales and smoothed."""
        low, _ = problem.threat.bounds
        pictures = points.dim() == 4
        if not pictures and (self.diversity or self.kernel > 1):
            problem.ledger.notes["images without rows and columns are neither resized nor smoothed"] = None
        total = torch.zeros_like(points)
        for power in range(self.scales):
            scale = 0.5**power
            dimmed = low + scale * (points - low)
            placed = _placement(problem, self.diversity, self.shrink) if pictures and self.diversity else None
            total += scale * _gradient_through(problem, placed, dimmed, self.loss)
        return _smoothed(total, self.kernel) if pictures and self.kernel > 1 else total


@dataclass(frozen=True, kw_only=True)
class OneIdea(Attack):
    """One of the ideas of `TransferFGSM` by itself: the fields of a subclass, with `without` for all others."""

    threats: ClassVar[tuple[str, ...]] = TransferFGSM.threats
    without: ClassVar[dict[str, Any]]

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    loss: str | Loss = "cross_entropy"
    early_stop: bool = False

    def __post_init__(self) -> None:
        self._as_transfer()

    def run(self, problem: Problem) -> Tensor:
        """The best iterate per image."""
        return self._as_transfer().run(problem)

    def _as_transfer(self) -> TransferFGSM:
        return TransferFGSM(**{field.name: getattr(self, field.name) for field in fields(self)}, **self.without)


def _gradient_through(
    problem: Problem, change: Callable[[Tensor], Tensor] | None, points: Tensor, loss: str | Loss
) -> Tensor:
    """Gradient of the loss at change(points) with respect to the points."""
    if change is None:
        return problem.gradient(points, loss).grad
    with torch.enable_grad():
        start = points.detach().requires_grad_()
        changed = change(start)
    grad = problem.gradient(changed.detach().clamp(*problem.threat.bounds), loss).grad
    (pulled,) = torch.autograd.grad(changed, start, grad)
    return pulled


def _placement(problem: Problem, chance: float, shrink: float) -> Callable[[Tensor], Tensor]:
    """A linear change of pictures (N, C, H, W): some of them smaller and elsewhere, each by draws of its own."""
    drawn = problem.streams.uniform((4,), problem.images)
    moved = (drawn[:, 0] < chance).nonzero().flatten()
    size = shrink + (1 - shrink) * drawn[moved, 1:2]
    centre = (2 * drawn[moved, 2:] - 1) * (1 - size)  # of the smaller picture; the large one reaches from -1 to 1
    height, width = problem.images.shape[2:]
    down = (_middles(height, drawn) - centre[:, :1]) / size
    across = (_middles(width, drawn) - centre[:, 1:]) / size
    source = torch.stack([across[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], 3)
    inside = (source.abs() <= 1).all(3)[:, None]
    low, _ = problem.threat.bounds

    def change(points: Tensor) -> Tensor:
        placed = functional.grid_sample(points[moved], source, padding_mode="border", align_corners=False)
        return points.index_copy(0, moved, torch.where(inside, placed, low))

    return change


def _middles(count: int, like: Tensor) -> Tensor:
    """The middles (1, count) of as many equal pieces of [-1, 1]."""
    return ((2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1)[None]


def _smoothed(grad: Tensor, width: int) -> Tensor:
    """`grad` (N, C, H, W) convolved with a Gaussian cut at three standard deviations, rows and columns in turn."""
    at = torch.linspace(-3, 3, width, dtype=grad.dtype, device=grad.device)
    weights = torch.softmax(-at.square() / 2, 0)
    planes = grad.flatten(0, 1)[:, None]
    planes = functional.conv2d(planes, weights.view(1, 1, -1, 1), padding=(width // 2, 0))
    planes = functional.conv2d(planes, weights.view(1, 1, 1, -1), padding=(0, width // 2))
    return planes.view_as(grad)


def _mean_size(grad: Tensor) -> Tensor:
    return per_image(grad.flatten(1).abs().mean(1).clamp_min(1e-30), grad)
