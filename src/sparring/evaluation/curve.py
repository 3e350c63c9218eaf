"""Accuracy against epsilon."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sparring import norms
from sparring.attacks import APGD, FGSM, PGD, Attack, MultiTargeted
from sparring.attacks.base import checked_flag
from sparring.budget import parse_number
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.evaluation.driver import Progress, evaluate
from sparring.evaluation.effort import chosen_attacks
from sparring.evaluation.evaluation import Evaluation, survived
from sparring.evaluation.task import Images, Subset, Task, checked_task
from sparring.model import Model, frozen_eval
from sparring.problem import Problem
from sparring.rng import Streams, digests
from sparring.threat import ThreatModel

HALVINGS = 5
DRAWN_AT_ONCE = 512
SCOUTS = (FGSM(), PGD(steps=10, loss="margin", random_start=False))
CONFIRMING = (PGD(steps=20), MultiTargeted(targets=4, steps=20), APGD(steps=50, loss="margin"))
Attacked = Callable[[list[int], float, int, Sequence[Attack]], Evaluation]
"""Images, budget, verdicts done so far, attacks."""


@dataclass(frozen=True)
class Curve:
    """Accuracy at each budget, `eps` rising. An upper bound at every point: the images nobody broke.

    `distances`: for each image that of the nearest adversarial found, 0 where the model was wrong to begin with,
    infinite where it stood at every budget; None for a curve without `carry`.
    """

    attack: str
    norm: str
    eps: tuple[float, ...]
    accuracy: tuple[Estimate, ...]
    distances: tuple[float, ...] | None = None

    def at(self, eps: float | str) -> Estimate:
        """Accuracy at any budget, an upper bound as everywhere: the images whose nearest adversarial found is farther.

        Beyond the largest measured budget, and without `distances`, it is that of the next smaller measured one; then
        raises `InputError` for a budget below them all.
        """
        budget = parse_number(eps)
        place = bisect_right(self.eps, budget) - 1
        if self.distances is not None and place < len(self.eps) - 1:
            return proportion(sum(distance > budget for distance in self.distances), len(self.distances))
        if place < 0:
            raise InputError(f"eps must be at least {self.eps[0]:g}, the smallest budget of the curve, got {eps!r}")
        return self.accuracy[place]


def robustness_curve(
    model: Model,
    images: Images,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: Sequence[float | str],
    attacks: Sequence[Attack | str] | None = None,
    targets: Tensor | None = None,
    carry: bool = True,
    bounds: Sequence[float] = (0.0, 1.0),
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Curve:
    """Accuracy of `model` under `attacks` at every budget of `eps` (any order; the curve comes back rising).

    With `carry`, an image broken at one budget counts as broken at all larger ones (its adversarial is allowed
    there too), so the budget of each image is found by halving, and each adversarial is drawn in towards its image as
    far as it goes: m budgets cost less than log2(m) + 2 evaluations, and `Curve.at` answers for every other. Without it
    every budget is attacked afresh: the raw curve of one attack, which may rise again where a single step overshoots.
    By default short attacks find the place, and longer ones try the largest budget that an image seems to withstand.

    targets: one class per image, int64 (N,): the share that is right and cannot be turned into that class; images
    labelled as their target stand at every budget. out: a folder for records, from which an interrupted curve goes on.
    progress: called as the work goes on, in verdicts (images times budgets).

    Raises `InputError` for no eps, and what `evaluate` raises.
    """
    budgets = _budgets(eps)
    checked_flag("carry", carry)
    chosen = CONFIRMING if attacks is None else chosen_attacks(attacks)
    widest = ThreatModel(norm, budgets[-1], bounds, mask)
    task = checked_task(model, images, labels, targets, widest, seed, batch_size)
    n, rounds = len(task.labels), len(budgets).bit_length() + 2 if carry else len(budgets)

    def attacked(rows: list[int], budget: float, done: int, attacks: Sequence[Attack]) -> Evaluation:
        return evaluate(
            model,
            Subset(images, rows),
            task.labels[torch.tensor(rows)],
            widest.with_eps(budget),
            attacks=[attack for attack in attacks if norm in attack.threats],
            targets=None if task.targets is None else task.targets[torch.tensor(rows)],
            seed=seed,
            batch_size=batch_size,
            out=out,
            keep=carry,
            progress=_within(progress, done, len(rows), n * rounds),
        )

    name, distances = " + ".join(str(attack) for attack in chosen), None
    if carry:
        distances = tuple(_Search(task, budgets, attacked).distances(SCOUTS if attacks is None else chosen, chosen))
        accuracy = [proportion(sum(d > budget for d in distances), n) for budget in budgets]
    else:
        accuracy, right = [], list(range(n))
        for k, budget in enumerate(budgets):
            alive: list[int] = []
            if right:
                found = attacked(right, budget, n * k, chosen)
                alive = [right[r.index] for r in found.records if survived(r)]
                right = [right[r.index] for r in found.records if r.prediction == r.label]
            accuracy.append(proportion(len(alive), n))
    if progress is not None:
        progress(Progress("curve", 1, 1, n * rounds, n * rounds, accuracy[-1], "verdicts"))
    return Curve(name, norm, tuple(budgets), tuple(accuracy), distances)


class _Search:
    """For every image the largest budget it withstood and the distance of the nearest adversarial, drawn together."""

    def __init__(self, task: Task, budgets: Sequence[float], attacked: Attacked) -> None:
        n = len(task.labels)
        self._task, self._budgets, self._attacked = task, _finer(budgets, task.threat.norm), attacked
        self._stood, self._nearest = [-1.0] * n, [math.inf] * n  # -1: at none
        self._right = set(range(n))
        self._done = 0

    def distances(self, scouts: Sequence[Attack], confirming: Sequence[Attack]) -> list[float]:
        """Halves until no budget lies between, as the `scouts` see it; the `confirming` attacks then try the largest
        budget that was withstood, and go down from there.
        """
        while groups := self._grouped(self._middle):
            self._round(groups, scouts)
        if list(scouts) != list(confirming):
            self._stood = [-1.0] * len(self._stood)
            while groups := self._grouped(self._below):
                self._round(groups, confirming)
        return self._nearest

    def _grouped(self, aim: Callable[[int], float | None]) -> dict[float, list[int]]:
        groups: dict[float, list[int]] = {}
        for i in sorted(self._right):
            budget = aim(i)
            if budget is not None:
                groups.setdefault(budget, []).append(i)
        return groups

    def _middle(self, i: int) -> float | None:
        """The middle one of the budgets at which image i may stand or fall."""
        low, high = bisect_right(self._budgets, self._stood[i]), bisect_left(self._budgets, self._nearest[i])
        return self._budgets[(low + high) // 2] if low < high else None

    def _below(self, i: int) -> float | None:
        """The largest budget that does not reach the nearest adversarial, unless the image withstood it."""
        place = bisect_left(self._budgets, self._nearest[i]) - 1
        return self._budgets[place] if place >= 0 and self._budgets[place] > self._stood[i] else None

    def _round(self, groups: dict[float, list[int]], attacks: Sequence[Attack]) -> None:
        shape = self._task.images[0:1].shape
        most = max(16, 2**26 // max(1, math.prod(shape)))  # so many adversarials are held at a time
        for budget, rows in sorted(groups.items()):
            for start in range(0, len(rows), most):
                self._try(rows[start : start + most], budget, attacks)

    def _try(self, rows: list[int], budget: float, attacks: Sequence[Attack]) -> None:
        found = self._attacked(rows, budget, self._done, attacks)
        self._done += len(rows)
        for record in found.records:
            i = rows[record.index]
            if record.prediction != record.label:
                self._nearest[i] = 0.0
                self._right.discard(i)
            elif record.broken_by is None:
                self._stood[i] = budget
        fallen = list(found.adversarials)
        for start in range(0, len(fallen), DRAWN_AT_ONCE):
            part = fallen[start : start + DRAWN_AT_ONCE]
            adversarials = torch.stack([found.adversarials[k] for k in part])
            floor = torch.tensor([max(0.0, self._stood[rows[k]]) for k in part], dtype=torch.float64)
            near = drawn_in(self._task, [rows[k] for k in part], adversarials, floor)
            for k, distance in zip(part, near.tolist(), strict=True):
                self._nearest[rows[k]] = min(self._nearest[rows[k]], distance, budget)


def _finer(budgets: Sequence[float], norm: str) -> list[float]:
    """The budgets and, where budgets are no whole numbers, those halfway between them and to zero."""
    if norm == "l0":
        return list(budgets)
    halfway = [(low + high) / 2 for low, high in pairwise([0.0, *budgets])]
    return sorted({*budgets, *halfway})


def drawn_in(task: Task, rows: list[int], adversarials: Tensor, floor: Tensor) -> Tensor:
    """How near to its image each adversarial (N, C, H, W) can be projected and still meet the goal: float64 (N,).

    Bisection between `floor` (N,) and where it is, `HALVINGS` forward passes each.
    """
    images = Subset(task.images, rows)[0 : len(rows)].to(task.device)
    threat = cast(ThreatModel, task.threat)
    goal, streams = task.goal(torch.tensor(rows)), Streams(task.seed, "curve", digests(images))
    with frozen_eval(task.model), task.plan.running():
        problem = Problem.build(task.model, images, goal, threat, streams, task.plan)
        points = adversarials.to(images)
        nearest = threat.distance(images, points)
        low, delta = floor.to(nearest), (points - images).flatten(1)
        lower, upper = ((end - images).flatten(1) for end in (problem.region.lower, problem.region.upper))
        for _ in range(HALVINGS):
            radius = (low + nearest) / 2
            radius = radius.floor() if threat.norm == "l0" else radius
            moved = norms.project(delta, radius.to(delta), threat.norm, lower, upper)
            points = torch.clamp(images + moved.view_as(images), problem.region.lower, problem.region.upper)
            met = problem.solved(problem.logits(points))
            nearest = torch.where(met, threat.distance(images, points).minimum(nearest), nearest)
            low = torch.where(met, low, radius.to(low))
    return nearest.cpu()


def _budgets(eps: Sequence[float | str]) -> list[float]:
    if isinstance(eps, (str, int, float)) or not hasattr(eps, "__iter__"):
        raise InputError(f'eps must be a list of budgets such as [0.1, "8/255"], got {eps!r}')
    budgets = sorted({parse_number(budget) for budget in eps})
    if not budgets:
        raise InputError("eps is empty: give at least one budget")
    return budgets


def _within(
    progress: Callable[[Progress], None] | None, done: int, share: int, total: int
) -> Callable[[Progress], None] | None:
    """What one evaluation reports, as the next `share` verdicts after `done` of the curve's `total`."""
    if progress is None:
        return None

    def tell(event: Progress) -> None:
        part = (event.number * event.total + event.done) / ((event.stages + 1) * event.total)
        if part < 1:
            progress(Progress("curve", 1, 1, done + int(share * part), total, event.robust, "verdicts"))

    return tell
