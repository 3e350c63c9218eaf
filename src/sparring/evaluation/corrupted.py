"""Accuracy on corrupted pictures, per corruption and severity (Hendrycks & Dietterich 2019, arXiv:1903.12261)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.evaluation.task import Images, checked_task
from sparring.model import Model, frozen_eval
from sparring.perturbations import RECIPES, Corruptions, corrupt
from sparring.perturbations.corruptions import SEVERITIES
from sparring.problem import Problem
from sparring.rng import Streams, digests


@dataclass(frozen=True)
class CorruptionTable:
    """Accuracy under every corruption at every severity, and on the images as they are."""

    clean: Estimate
    cells: dict[tuple[str, int], Estimate]

    @property
    def mean(self) -> float:
        """Mean over the cells: 1 minus the paper's mean corruption error, without its division by AlexNet's errors."""
        return statistics.fmean(self.cells.values())

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for name, _ in self.cells))
        severities = sorted({severity for _, severity in self.cells})
        rows = [f"{'accuracy in %':<16}" + "".join(f"{severity:>7}" for severity in severities)]
        rows += [f"{n:<16}" + "".join(f"{100 * self.cells[n, s]:7.1f}" for s in severities) for n in names]
        return "\n".join([*rows, f"mean {100 * self.mean:.1f}, clean {100 * self.clean:.1f}"])


def corruption_accuracy(
    model: Model,
    images: Images,
    labels: Tensor,
    *,
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int | None = None,
) -> CorruptionTable:
    """Accuracy of `model` on `images` (N, C, H, W) under the corruptions `names` (None: all) at `severities`.

    No attacker chooses here: every image gets every corruption, right or wrong before. For the worst of them per image,
    evaluate the threat `sparring.perturbations.Corruptions`. Raises `InputError` for unusable input.
    """
    chosen = list(RECIPES) if names is None else list(names)
    wanted = [(name, severity) for name in chosen for severity in severities]
    if not wanted:
        raise InputError("name at least one corruption and one severity")
    threat = Corruptions(names=chosen, severity=max(severities), seed=seed, bounds=bounds)
    task = checked_task(model, images, labels, None, threat, seed, batch_size)
    right = dict.fromkeys([("", 0), *wanted], 0)
    with frozen_eval(model), task.plan.running():
        for part in task.chunks():
            clean = task.read(part)
            streams = Streams(seed, "corruptions", digests(clean))
            problem = Problem.build(model, clean, task.goal(part), threat, streams, task.plan)
            for name, severity in right:
                shown = corrupt(clean, name, severity, seed=seed, bounds=threat.bounds) if severity else clean
                right[name, severity] += int((problem.logits(shown).argmax(1) == problem.goal.reference).sum())
    cells = {cell: proportion(count, len(task.labels)) for cell, count in right.items()}
    return CorruptionTable(cells.pop(("", 0)), cells)
