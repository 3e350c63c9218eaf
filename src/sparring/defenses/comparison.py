"""Stacks side by side under the same attacks, and what each layer of a stack adds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparring.defenses.adaptive import evaluate_stack
from sparring.defenses.outcome import StackOutcome, _plain
from sparring.defenses.policy import Policy
from sparring.defenses.stack import Stack
from sparring.errors import InputError
from sparring.estimate import Estimate
from sparring.evaluation.task import Images
from sparring.threat import Threat

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Row:
    """One stack: its name, its layers, everything measured, and the seconds it took to fit (None where not known)."""

    name: str
    outcome: StackOutcome
    fit_seconds: float | None

    @property
    def slowdown(self) -> float:
        """Calls of the bare model that one call of the stack costs, at the largest batch measured."""
        return self.outcome.latency[-1].ratio

    @property
    def tpr(self) -> Estimate | None:
        """The best detector's share of adaptive attempts that fool the model flagged at its threshold; None without."""
        found = [d.flagged for d in self.outcome.detection if d.against == "adaptive, fooled only"]
        found = [share for share in found if not math.isnan(share)]
        return max(found, default=None)


@dataclass(frozen=True)
class Step:
    """What one layer adds: the robust accuracy with detection of the whole stack, and without that layer, in points."""

    layer: str
    naive: float
    adaptive: float
    clean: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows in the order given; `ablation` where one was asked for."""

    threat: str
    rows: tuple[Row, ...]
    ablation: tuple[Step, ...] = ()

    @property
    def frontier(self) -> tuple[str, ...]:
        """Names of the stacks that none other beats in both accepted-and-right clean images and adaptive accuracy."""
        points = [(row.name, row.outcome.accepted.value, row.outcome.adaptive.value) for row in self.rows]
        return tuple(
            name
            for name, clean, robust in points
            if not any((c >= clean and r >= robust) and (c > clean or r > robust) for _, c, r in points)
        )

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        rows = [{"name": r.name, "fit_seconds": r.fit_seconds, **r.outcome.plain()} for r in self.rows]
        steps = [_plain(step) for step in self.ablation]
        return {
            "schema": SCHEMA,
            "threat": self.threat,
            "frontier": list(self.frontier),
            "rows": rows,
            "ablation": steps,
        }

    def to_json(self) -> str:
        """`plain` as text."""
        return json.dumps(self.plain(), indent=2, allow_nan=False) + "\n"


def compare_stacks(
    stacks: Mapping[str, Stack],
    images: Images,
    labels: Tensor,
    threat: Threat,
    *,
    effort: str = "standard",
    seed: int = 0,
    fit_seconds: Mapping[str, float] | None = None,
    ablate: str | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Comparison:
    """Evaluate every stack on the same images under the same threat, naive and adaptive attackers both.

    ablate: the name of a stack that is evaluated again without each of its layers. The other arguments are those of
    `evaluate_stack`. Raises `InputError` for an empty comparison or an unknown name.
    """
    if not stacks:
        raise InputError("there is nothing to compare: give at least one stack")
    if ablate is not None and ablate not in stacks:
        raise InputError(f"ablate must be one of {', '.join(stacks)}, got {ablate!r}")
    tried = dict(stacks)
    if ablate is not None:
        tried |= {f"{ablate} without {layer}": rest for layer, rest in without_each(stacks[ablate])}
    rows = {
        name: Row(
            name,
            evaluate_stack(stack, images, labels, threat, effort=effort, seed=seed, progress=_named(progress, name)),
            (fit_seconds or {}).get(name),
        )
        for name, stack in tried.items()
    }
    steps = () if ablate is None else tuple(_step(layer, rows, ablate) for layer, _ in without_each(stacks[ablate]))
    return Comparison(next(iter(rows.values())).outcome.threat, tuple(rows.values()), steps)


def without_each(stack: Stack) -> list[tuple[str, Stack]]:
    """The stack without each of its layers in turn, by the layer's name; the quorum shrinks with the detectors."""
    found = []
    for i, transform in enumerate(stack.transforms):
        rest = tuple(t for j, t in enumerate(stack.transforms) if j != i)
        found.append((str(transform), Stack(stack.model, rest, stack.detectors, stack.policy)))
    for i, fitted in enumerate(stack.detectors):
        others = tuple(d for j, d in enumerate(stack.detectors) if j != i)
        quorum = max(1, min(stack.policy.quorum, len(others)))
        policy = Policy(flagged=stack.policy.flagged, quorum=quorum, purifier=stack.policy.purifier)
        found.append((fitted.name, Stack(stack.model, stack.transforms, others, policy)))
    return found


def _step(layer: str, rows: Mapping[str, Row], whole: str) -> Step:
    with_it, without = rows[whole].outcome, rows[f"{whole} without {layer}"].outcome
    return Step(
        layer,
        with_it.naive.value - without.naive.value,
        with_it.adaptive.value - without.adaptive.value,
        with_it.accepted.value - without.accepted.value,
    )


def _named(progress: Callable[[str, int], None] | None, name: str) -> Callable[[str, int], None] | None:
    return None if progress is None else lambda stage, standing: progress(f"{name}: {stage}", standing)
