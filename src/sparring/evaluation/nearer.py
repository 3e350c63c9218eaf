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
CLASSES, RUN = 4, 20
"""Approaching: classes tried per image at most, and gradients for each."""
AGAIN, LONG = 3, 30
"""Approaching once more, from random points: classes that came nearest, and gradients for each."""


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
            points, met, _ = _climbed(problem, best, radius, steps)
            best = torch.where(per_image(met, best), points, best)
            nearest = threat.distance(images, best)
            low = torch.where(met, low, radius)
    return best.cpu(), nearest.tolist()


def approached(task: Task, rows: list[int], radius: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Adversarials (N, C, H, W) of the images `rows` within `radius` (N,) of them, and where there is one, bool (N,):
    by short runs from the image towards each of its likeliest wrong classes, and by longer ones from random points
    towards those that came nearest.
    """
    with _problem(task, rows) as problem:
        reach = torch.tensor(radius, dtype=torch.float64, device=problem.images.device)
        classes = promising(problem, CLASSES)
        points, met, values = _raced(problem, classes, reach, RUN)
        if not bool(met.all()):
            left, nearest = problem.select(~met), values[~met].topk(min(AGAIN, classes.shape[1]), dim=1).indices
            points[~met], met[~met], _ = _raced(left, classes[~met].gather(1, nearest), reach[~met], LONG, anew=True)
    return points.cpu(), met.cpu()


def _raced(
    problem: Problem, classes: Tensor, reach: Tensor, steps: int, *, anew: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of `steps` gradients towards each of `classes` (N, k) side by side, from the images or `anew` from random
    points: an adversarial of each image (N, C, H, W), where there is one (N,), and how near each class came (N, k).
    """
    rows = torch.arange(len(classes), device=classes.device)
    own = rows.repeat(classes.shape[1])
    several = problem.select(own).aiming(classes.T.flatten())
    start = several.images
    if anew:
        start = start + (2 * several.streams.uniform(start.shape[1:], start) - 1) * per_image(
            reach[own].to(start), start
        )
    points, met, values = _climbed(several, start, reach[own], steps, first=1.0)
    which = met.view(-1, len(rows)).int().argmax(0) * len(rows) + rows
    return points[which], met[which], values.view(-1, len(rows)).T


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
    known = [run, pictures, task.goal(torch.tensor(rows)), list(radius), CLASSES, RUN, AGAIN, LONG]
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
    problem: Problem, start: Tensor, radius: Tensor, steps: int, *, first: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """From `start` projected into balls of `radius` (N,), up the margin in steps that shrink from the share `first` of
    the radius: points that meet the goal, for whom (N,), and the highest margin on the way (N,).
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
    highest = torch.full((len(points),), -torch.inf, dtype=torch.float64, device=points.device)
    for step in range(steps + 1):
        at = problem.gradient(points, "margin") if step < steps else None
        logits = problem.logits(points) if at is None else at.logits
        solved = problem.solved(logits)
        highest = torch.maximum(highest, problem.loss_values(logits, "margin").double().nan_to_num(nan=-torch.inf))
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
    return best, met, highest
