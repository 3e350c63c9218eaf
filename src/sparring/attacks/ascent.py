"""The loop that the gradient attacks share: climb a loss, keep the best point of each image, let the solved leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparring.attacks.outlook import Outlook
from sparring.losses import Loss
from sparring.norms import per_image
from sparring.problem import Problem
from sparring.threat import ThreatModel


class Best:
    """The best point seen per image: one that meets the goal beats one that does not, then the higher loss."""

    def __init__(self, problem: Problem) -> None:
        n = len(problem)
        self.points = problem.images.clone()
        self.met = torch.zeros(n, dtype=torch.bool, device=self.points.device)
        self.values = torch.full((n,), -torch.inf, dtype=self.points.dtype, device=self.points.device)

    def offer(self, rows: Tensor, points: Tensor, met: Tensor, values: Tensor) -> None:
        """Take over the offered points where they are better; `rows` (M,) says which images they belong to."""
        values = values.to(self.values.dtype).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        had, value = self.met[rows], self.values[rows]
        better = (met & ~had) | ((met == had) & (values > value))
        taken = rows[better]
        self.points[taken] = points[better]
        self.values[taken] = values[better]
        self.met[taken] |= met[better]


def ascend(
    problem: Problem,
    points: Tensor,
    best: Best,
    rows: Tensor,
    *,
    loss: str | Loss,
    step_sizes: Sequence[float],
    momentum: float = 0.0,
    leave_early: bool = True,
    leap: bool = False,
) -> Tensor:
    """Climb `loss` from `points`, one step per entry of `step_sizes`; returns the rows (M,) still unsolved.

    With `leap` the first step is the exact steepest step of the whole budget: `points` must be the images then.

    Every iterate is offered to `best`, the last one too. With `momentum`, gradients are accumulated after each is
    divided by its mean absolute value (Dong et al. 2018). With `leave_early`, images solved by more than rounding
    leave at once, and in linf and l2 so do those that the remaining steps cannot solve (`Outlook`).
    """
    velocity: Tensor | None = None
    whole = problem.threat.eps
    outlook = Outlook([whole, *step_sizes[1:]] if leap else step_sizes, whole)
    given_up: list[Tensor] = []
    for step, size in enumerate(step_sizes):
        at = problem.gradient(points, loss)
        best.offer(rows, points, problem.goal.is_met(at.logits), at.values)
        grad = at.grad
        if momentum:
            scale = per_image(grad.flatten(1).abs().mean(1).clamp_min(1e-30), grad)
            grad = grad / scale if velocity is None else momentum * velocity + grad / scale
        if leave_early:
            keep = ~problem.solved(at.logits)
            if problem.threat.norm in ("linf", "l2"):
                hopeless = keep & outlook.hopeless(step, problem.shortfalls(at.logits))
                given_up.append(rows[hopeless])
                keep &= ~hopeless
            if not bool(keep.all()):
                problem, points, grad, rows = problem.select(keep), points[keep], grad[keep], rows[keep]
                outlook.select(keep)
                if len(rows) == 0:
                    return torch.cat([rows, *given_up]).sort().values
        if leap and velocity is None:
            points = problem.region.project(points + problem.region.steepest_step(grad))
        else:
            points = problem.region.advance(points, grad, size)
        velocity = grad
    logits = problem.logits(points)
    best.offer(rows, points, problem.goal.is_met(logits), problem.loss_values(logits, loss))
    return torch.cat([rows[~problem.solved(logits)], *given_up]).sort().values


TOGETHER = 3
"""Classes that an image is pulled to in one batch: few images alone would waste most of a processor."""


def side_by_side(
    problem: Problem, rows: Tensor, best: Best, classes: Tensor, climb: Callable[[Problem, Best], Tensor]
) -> tuple[Tensor, Tensor]:
    """Pull every image to each of its `classes` (M, k), all in one batch, and offer to `best` what came of it.

    climb: takes a problem of M·k images and where its points go, returns the rows still unsolved. Returns who is
    unsolved by every class, bool (M,), and the largest loss that each class came to, (M, k).
    """
    m, k = classes.shape
    several = problem.select(torch.arange(m, device=rows.device).repeat(k)).aiming(classes.T.flatten())
    near, unsolved = Best(several), torch.zeros(m * k, dtype=torch.bool, device=rows.device)
    unsolved[climb(several, near)] = True
    for start in range(0, m * k, m):
        part = slice(start, start + m)
        best.offer(rows, near.points[part], near.met[part], near.values[part])
    return unsolved.view(k, m).all(0), near.values.view(k, m).T


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}
"""Factor on the step size after the share `progress` of the steps."""


def step_schedule(name: str, size: float, steps: int) -> list[float]:
    """Sizes of `steps` steps that start at `size` and follow a schedule of the table."""
    return [size * SCHEDULES[name](step / steps) for step in range(steps)]


def default_step_size(threat: ThreatModel, steps: int, schedule: str = "constant") -> float:
    """2.5·eps/steps (Madry et al. 2018) for constant steps; eps, to begin with, for steps that shrink.

    l0: the largest coordinate moves by twice the box, so that the projection can exchange the few it keeps.
    """
    if threat.norm == "l0":
        return 2 * (threat.bounds[1] - threat.bounds[0])
    return 2.5 * threat.eps / steps if schedule == "constant" else threat.eps


def climb_once(
    problem: Problem,
    steps: int,
    step_size: float | None,
    *,
    loss: str | Loss,
    momentum: float = 0.0,
    leave_early: bool,
) -> Tensor:
    """One ascent with constant steps from the images themselves; the best iterate per image."""
    size = default_step_size(problem.threat, steps) if step_size is None else step_size
    best = Best(problem)
    rows = torch.arange(len(problem), device=problem.images.device)
    ascend(
        problem,
        problem.images,
        best,
        rows,
        loss=loss,
        step_sizes=[size] * steps,
        momentum=momentum,
        leave_early=leave_early,
    )
    return best.points
