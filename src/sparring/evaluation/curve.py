"""Accuracy against epsilon."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks import APGD, FGSM, PGD, Attack, MultiTargeted
from sparring.attacks.base import checked_flag
from sparring.budget import parse_number
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.evaluation.driver import evaluate
from sparring.evaluation.effort import chosen_attacks
from sparring.evaluation.evaluation import Evaluation, survived
from sparring.evaluation.nearer import CLASSES, REACH, STEPS, approached, drawn_in, remembered
from sparring.evaluation.progress import Progress
from sparring.evaluation.task import Images, Subset, Task, checked_task, run_key
from sparring.model import Model
from sparring.threat import ThreatModel

DRAWN_AT_ONCE = 512
BLOCK_VALUES = 2**27
"""So many pixel values of adversarials are held at a time."""
CLOSER, ROUNDS = 0.995, 3
"""The nearest adversarial of an image is believed when short runs find none at this share of its distance; if one does,
it is drawn in and tried again, so many times at most.
"""
SCOUTS = (FGSM(), PGD(steps=10, loss="margin", random_start=False))
CONFIRMING = (PGD(steps=20), MultiTargeted(targets=4, steps=20), APGD(steps=50, loss="margin"))
"""What tries the largest budget, on the images that withstood it."""
Attacked = Callable[[list[int], float, Sequence[Attack]], Evaluation]


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
    By default short attacks find the place, runs towards the likeliest classes try to come nearer than what they found,
    and longer attacks try the largest budget on the images that withstood it.

    targets: one class per image, int64 (N,): the share that is right and cannot be turned into that class; images
    labelled as their target stand at every budget. out: a folder for records, from which an interrupted curve goes on.
    progress: called as the work goes on, in verdicts (images times budgets).

    Raises `InputError` for no eps, and what `evaluate` raises.
    """
    budgets = _budgets(eps)
    checked_flag("carry", carry)
    chosen = CONFIRMING if attacks is None else chosen_attacks(attacks)
    widest = ThreatModel(norm, budgets[-1], bounds, mask)
    chosen = [attack for attack in chosen if attacks is not None or norm in attack.threats]
    for attack in chosen:
        attack.check_threat(widest)
    task = checked_task(model, images, labels, targets, widest, seed, batch_size)
    n, rounds = len(task.labels), len(budgets).bit_length() + 2 if carry else len(budgets)
    done = 0

    def attacked(rows: list[int], budget: float, attacks: Sequence[Attack]) -> Evaluation:
        nonlocal done
        done += len(rows)
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
            progress=_within(progress, done - len(rows), len(rows), n * rounds),
        )

    name, distances = " + ".join(str(attack) for attack in chosen), None
    if carry:
        most = max(16, BLOCK_VALUES // math.prod(task.images[0:1].shape))
        blocks = [range(start, min(start + most, n)) for start in range(0, n, most)]
        scouts = SCOUTS if attacks is None else chosen
        kept = None if out is None else Path(out) / "nearer"
        found = (_Search(task, block, budgets, attacked, kept).distances(scouts, chosen) for block in blocks)
        distances = tuple(distance for block in found for distance in block)
        accuracy = [proportion(sum(d > budget for d in distances), n) for budget in budgets]
    else:
        accuracy, right = [], list(range(n))
        for budget in budgets:
            alive: list[int] = []
            if right:
                evaluation = attacked(right, budget, chosen)
                alive = [right[r.index] for r in evaluation.records if survived(r)]
                right = [right[r.index] for r in evaluation.records if r.prediction == r.label]
            accuracy.append(proportion(len(alive), n))
    if progress is not None:
        progress(Progress("curve", 1, 1, n * rounds, n * rounds, accuracy[-1], "verdicts"))
    return Curve(name, norm, tuple(budgets), tuple(accuracy), distances)


class _Search:
    """For some images, `members`, the largest budget each withstood and its nearest adversarial, drawn together."""

    def __init__(
        self, task: Task, members: Sequence[int], budgets: Sequence[float], attacked: Attacked, folder: Path | None
    ) -> None:
        self._task, self._members, self._budgets, self._attacked = task, members, list(budgets), attacked
        self._folder, self._run = folder, "" if folder is None else repr(run_key(task, ["nearer"], []))
        self._stood = dict.fromkeys(members, -1.0)  # -1: at none
        self._nearest = dict.fromkeys(members, math.inf)
        self._found: dict[int, Tensor] = {}

    def distances(self, scouts: Sequence[Attack], confirming: Sequence[Attack]) -> list[float]:
        """Halves until no budget lies between, as the `scouts` see it. What they found is drawn in by gradients; where
        other attacks are to confirm that, they try the largest budget on what withstood it, and every image is
        approached more closely than what was found.
        """
        steps = STEPS if any(attack.access == "gradients" for attack in confirming) else 0
        while groups := self._grouped(self._middle):
            self._round(groups, scouts, 0)
        self._draw_in(list(self._found), steps)
        if list(scouts) != list(confirming):
            unbroken = [i for i in self._members if self._nearest[i] == math.inf]
            if unbroken and self._budgets[-1] > 0:
                self._round({self._budgets[-1]: unbroken}, confirming, steps)
            self._approach()
        return [self._nearest[i] for i in self._members]

    def _grouped(self, aim: Callable[[int], float | None]) -> dict[float, list[int]]:
        groups: dict[float, list[int]] = {}
        for i in self._members:
            budget = aim(i)
            if budget is not None:
                groups.setdefault(budget, []).append(i)
        return groups

    def _middle(self, i: int) -> float | None:
        """The middle one of the budgets at which image i may stand or fall."""
        low, high = bisect_right(self._budgets, self._stood[i]), bisect_left(self._budgets, self._nearest[i])
        return self._budgets[(low + high) // 2] if low < high else None

    def _round(self, groups: dict[float, list[int]], attacks: Sequence[Attack], steps: int) -> None:
        for budget, rows in sorted(groups.items()):
            found = self._attacked(rows, budget, attacks)
            for record in found.records:
                i = rows[record.index]
                if record.prediction != record.label:
                    self._nearest[i] = 0.0
                elif record.broken_by is None:
                    self._stood[i] = budget
            for k, adversarial in found.adversarials.items():
                self._found[rows[k]], self._nearest[rows[k]] = adversarial, budget
            self._draw_in([rows[k] for k in found.adversarials], steps)

    def _approach(self) -> None:
        rows = [i for i in self._found if self._nearest[i] > 0]
        for _ in range(ROUNDS):
            nearer: list[int] = []
            for start in range(0, len(rows), DRAWN_AT_ONCE // CLASSES):
                part = rows[start : start + DRAWN_AT_ONCE // CLASSES]
                radius = [CLOSER * self._nearest[i] for i in part]
                find = partial(approached, self._task, part, radius)
                points, met = remembered(self._folder, self._run, self._task, part, radius, find)
                for k in met.nonzero().flatten().tolist():
                    self._found[part[k]], self._nearest[part[k]] = points[k], radius[k]
                    nearer.append(part[k])
            self._draw_in(nearer, STEPS)
            rows = nearer

    def _draw_in(self, rows: list[int], steps: int) -> None:
        rows = [i for i in rows if self._nearest[i] > 0]
        for start in range(0, len(rows), DRAWN_AT_ONCE):
            part = rows[start : start + DRAWN_AT_ONCE]
            floor = [self._nearest[i] * REACH if steps else max(0.0, self._stood[i]) for i in part]
            points, near = drawn_in(self._task, part, torch.stack([self._found[i] for i in part]), floor, steps)
            for i, point, distance in zip(part, points, near, strict=True):
                self._found[i], self._nearest[i] = point, min(self._nearest[i], distance)


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
