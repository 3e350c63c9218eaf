"""Accuracy against epsilon."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.attacks.base import checked_flag
from sparring.budget import parse_number
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.evaluation.driver import Progress, evaluate
from sparring.evaluation.effort import EFFORTS, chosen_attacks
from sparring.evaluation.evaluation import survived
from sparring.evaluation.task import Images, Subset, checked_task
from sparring.model import Model
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Curve:
    """Accuracy at each budget, `eps` rising. An upper bound at every point: the images nobody broke.

    `broken_at`: for each image the place in `eps` of the smallest budget at which it was broken, 0 too where the model
    was wrong to begin with, len(eps) where it stood at all of them; None for a curve without `carry`.
    """

    attack: str
    norm: str
    eps: tuple[float, ...]
    accuracy: tuple[Estimate, ...]
    broken_at: tuple[int, ...] | None = None

    def at(self, eps: float | str) -> Estimate:
        """Accuracy at any budget from the smallest measured one on: that of the next smaller one, so never too low.

        Raises `InputError` for a budget below all measured ones.
        """
        budget = parse_number(eps)
        place = bisect_right(self.eps, budget) - 1
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
    there too), so the budget of each image is found by halving: m budgets cost about log2(m) + 1 evaluations. Without
    it every budget is attacked afresh: the raw curve of one attack, which may rise again where a single step
    overshoots. Default attacks: those of effort "quick".

    targets: one class per image, int64 (N,): the share that is right and cannot be turned into that class; images
    labelled as their target stand at every budget. out: a folder for records, from which an interrupted curve goes on.
    progress: called as the work goes on, in verdicts (images times budgets).

    Raises `InputError` for no eps, and what `evaluate` raises.
    """
    budgets = _budgets(eps)
    checked_flag("carry", carry)
    chosen = list(EFFORTS["quick"].everyone) if attacks is None else chosen_attacks(attacks)
    widest = ThreatModel(norm, budgets[-1], bounds, mask)
    task = checked_task(model, images, labels, targets, widest, seed, batch_size)
    n, rounds = len(task.labels), len(budgets).bit_length() if carry else len(budgets)

    def standing(rows: list[int], budget: float, done: int) -> tuple[list[int], list[int]]:
        """Of the images `rows`: those that stand at `budget`, and those that the model gets right to begin with."""
        found = evaluate(
            model,
            Subset(images, rows),
            task.labels[torch.tensor(rows)],
            widest.with_eps(budget),
            attacks=[attack for attack in chosen if norm in attack.threats],
            targets=None if task.targets is None else task.targets[torch.tensor(rows)],
            seed=seed,
            batch_size=batch_size,
            out=out,
            keep=False,
            progress=_within(progress, done, len(rows), n * rounds),
        )
        return [rows[r.index] for r in found.records if survived(r)], [
            rows[r.index] for r in found.records if r.prediction == r.label
        ]

    name, places = " + ".join(str(attack) for attack in chosen), None
    if carry:
        places = _halved(n, budgets, standing)
        accuracy = [proportion(sum(place > k for place in places), n) for k in range(len(budgets))]
    else:
        accuracy, right = [], list(range(n))
        for k, budget in enumerate(budgets):
            alive, right = standing(right, budget, n * k) if right else ([], [])
            accuracy.append(proportion(len(alive), n))
    if progress is not None:
        progress(Progress("curve", 1, 1, n * rounds, n * rounds, accuracy[-1], "verdicts"))
    return Curve(name, norm, tuple(budgets), tuple(accuracy), None if places is None else tuple(places))


def _halved(
    n: int, budgets: Sequence[float], standing: Callable[[list[int], float, int], tuple[list[int], list[int]]]
) -> list[int]:
    """The place of the smallest budget that breaks each image, len(budgets) for none; all are halved at once."""
    low, high = [0] * n, [len(budgets)] * n  # the place is in between, both ends included
    done = 0
    while any(low[i] < high[i] for i in range(n)):
        groups: dict[int, list[int]] = {}
        for i in range(n):
            if low[i] < high[i]:
                groups.setdefault((low[i] + high[i]) // 2, []).append(i)
        for middle, rows in sorted(groups.items()):
            alive, right = (set(part) for part in standing(rows, budgets[middle], done))
            done += len(rows)
            for i in rows:
                if i in alive:
                    low[i] = middle + 1
                else:
                    high[i] = middle if i in right else 0
    return low


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
