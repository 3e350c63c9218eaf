"""Nearer adversarials than those at hand, each image with a radius of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from sparring import norms
from sparring.attacks.minimal import movable
from sparring.attacks.multitargeted import promising
from sparring.evaluation.task import Subset, Task
from sparring.files import write_whole
from sparring.model import frozen_eval
from sparring.norms import per_image
from sparring.problem import Problem
from sparring.rng import Streams, digests
from sparring.threat import ThreatModel

HALVINGS, STEPS, REACH = 6, 8, 0.85
"""Drawing in: bisections, gradients at each of them, and the share of the distance below which none looks."""
CLASSES, RUN = 9, 20
"""Approaching: classes tried per image at most, and gradients for each."""


def drawn_in(
    task: Task, rows: list[int], adversarials: Tensor, floor: Sequence[float], steps: int
) -> tuple[Tensor, list[float]]:
    """Nearer adversarials than `adversarials` (N, C, H, W) of the images `rows`, and their distances.

    Bisection between `floor` (N,) and where they are: projected into a smaller ball they must still meet the goal, or
    meet it again after at most `steps` steps along the margin's gradient.
    """
    with _problem(task, rows) as problem:
        images, threat = problem.images, problem.threat
        best = adversarials.to(images)
        nearest = threat.distance(images, best)
        low = torch.tensor(floor, dtype=torch.float64, device=nearest.device)
        for _ in range(HALVINGS):
            radius = (low + nearest) / 2
            points, met = _climbed(problem, best, radius, steps)
            best = torch.where(per_image(met, best), points, best)
            nearest = threat.distance(images, best)
            low = torch.where(met, low, radius)
    return best.cpu(), nearest.tolist()


def approached(task: Task, rows: list[int], radius: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Adversarials (N, C, H, W) of the images `rows` within `radius` (N,) of them, and where there is one, bool (N,):
    by short runs from the image towards each of its likeliest wrong classes, and one up the cross-entropy from a random
    point.
    """
    with _problem(task, rows) as problem:
        classes, reach = promising(problem, CLASSES), torch.tensor(radius, dtype=torch.float64)
        own = torch.arange(len(rows), device=classes.device).repeat(classes.shape[1])
        reach = reach.to(classes.device)
        several = problem.select(own).aiming(classes.T.flatten())
        points, met = _climbed(several, several.images, reach[own], RUN, first=1.0)
        which = met.view(-1, len(rows)).int().argmax(0) * len(rows) + own[: len(rows)]
        points, met = points[which], met[which]
        if not bool(met.all()):
            left = problem.select(~met)
            start = left.images + 2 * left.streams.uniform(left.images.shape[1:], left.images) - 1
            points[~met], met[~met] = _climbed(left, start, reach[~met], RUN, first=1.0, loss="cross_entropy")
    return points.cpu(), met.cpu()


def remembered(
    folder: Path | None,
    run: str,
    task: Task,
    rows: list[int],
    radius: Sequence[float],
    find: Callable[[], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """What `find` returns for the images `rows` within `radius` of them; kept in `folder`, where an interrupted curve
    finds it again, whole and for the same `run` (its key in words), images and labels, or not at all.
    """
    if folder is None:
        return find()
    pictures = [digest.hex() for digest in digests(Subset(task.images, rows)[0 : len(rows)])]
    known = [run, pictures, task.goal(torch.tensor(rows)), list(radius), CLASSES, RUN]
    file = folder / hashlib.sha256(repr(known).encode()).hexdigest()[:32]
    content = file.read_bytes() if file.is_file() else b""
    if content[:32] == hashlib.sha256(content[32:]).digest():
        parts = load(content[32:])
        return parts["points"], parts["met"]
    points, met = find()
    body = save({"points": points.contiguous(), "met": met})
    write_whole(file, hashlib.sha256(body).digest() + body)
    return points, met


@contextmanager
def _problem(task: Task, rows: list[int]) -> Iterator[Problem]:
    """The images `rows` of a task, to be attacked inside."""
    images = Subset(task.images, rows)[0 : len(rows)].to(task.device)
    goal, streams = task.goal(torch.tensor(rows)), Streams(task.seed, "curve", digests(images))
    with frozen_eval(task.model), task.plan.running():
        yield Problem.build(task.model, images, goal, cast(ThreatModel, task.threat), streams, task.plan)


def _climbed(
    problem: Problem, start: Tensor, radius: Tensor, steps: int, *, first: float = 0.5, loss: str = "margin"
) -> tuple[Tensor, Tensor]:
    """From `start` projected into balls of `radius` (N,), up the loss in steps that shrink from the share `first` of
    the radius: where the goal is met, and for whom (N,).
    """
    radius = radius.floor() if problem.threat.norm == "l0" else radius
    images, region, norm = problem.images, problem.region, problem.threat.norm
    lower, upper = ((end - images).flatten(1) for end in (region.lower, region.upper))
    size = radius.to(images.dtype)

    def inside(points: Tensor) -> Tensor:
        moved = norms.project((points - images).flatten(1), size, norm, lower, upper)
        return torch.clamp(images + moved.view_as(images), region.lower, region.upper)

    points = inside(start)
    best, met = points, torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for step in range(steps + 1):
        at = problem.gradient(points, loss) if step < steps else None
        solved = problem.solved(problem.logits(points) if at is None else at.logits)
        best, met = torch.where(per_image(solved & ~met, points), points, best), met | solved
        if at is None or bool(met.all()):
            break
        grad = movable(at.grad, points, region)
        length = size * (1 - step / steps) * first
        if norm == "linf":
            points = inside(points + grad.sign() * per_image(length, points))
        else:
            room = torch.where(grad > 0, region.upper - points, points - region.lower).flatten(1)
            points = inside(points + norms.spread_step(grad.flatten(1), length, norm, room, 0.05).view_as(points))
    return best, met
