"""Accuracy against epsilon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks import PGD, Attack
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.evaluation.driver import Progress, evaluate
from sparring.evaluation.effort import chosen_attacks
from sparring.evaluation.evaluation import survived
from sparring.evaluation.task import Images, Subset
from sparring.model import Model
from sparring.threat import ThreatModel, parse_number

_DEFAULT = (PGD(steps=20, loss="margin", schedule="cosine"), PGD(steps=20, schedule="cosine"))


@dataclass(frozen=True)
class Curve:
    """Accuracy at each budget, `eps` rising. An upper bound at every point: the images nobody broke."""

    attack: str
    norm: str
    eps: tuple[float, ...]
    accuracy: tuple[Estimate, ...]


def robustness_curve(
    model: Model,
    images: Images,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: Sequence[float | str],
    attacks: Sequence[Attack | str] | None = None,
    carry: bool = True,
    bounds: Sequence[float] = (0.0, 1.0),
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Curve:
    """Accuracy of `model` under `attacks` at every budget of `eps` (any order; the curve comes back rising).

    With `carry`, an image broken at one budget counts as broken at all larger ones (its adversarial is allowed
    there too) and is not attacked again. Without it every budget is attacked afresh: the raw curve of one attack, which
    may rise again where a single step overshoots. Default: PGD with 20 steps
    on the margin, then on the cross-entropy. Raises `InputError` for no eps.
    """
    budgets = sorted({parse_number(e) for e in eps})
    if not budgets:
        raise InputError("eps is empty: give at least one budget")
    chosen = chosen_attacks(_DEFAULT if attacks is None else attacks, "")
    standing = list(range(len(labels)))
    accuracy: list[Estimate] = []
    for number, budget in enumerate(budgets, start=1):
        alive: list[int] = []
        if standing:
            found = evaluate(
                model,
                Subset(images, standing),
                labels[torch.tensor(standing)],
                ThreatModel(norm, budget, bounds, mask),
                attacks=chosen,
                seed=seed,
                batch_size=batch_size,
                keep=False,
            )
            alive = [standing[r.index] for r in found.records if survived(r)]
            right = [standing[r.index] for r in found.records if r.prediction == r.label]
            standing = alive if carry else right
        accuracy.append(proportion(len(alive), len(labels)))
        if progress is not None:
            progress(Progress("curve", number, len(budgets), number, len(budgets), accuracy[-1], "budgets"))
    return Curve(" + ".join(str(attack) for attack in chosen), norm, tuple(budgets), tuple(accuracy))
