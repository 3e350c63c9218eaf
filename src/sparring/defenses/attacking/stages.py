"""Which attacks a stack meets, in which order: cheap and general ones first, the rest on what still stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparring.attacks.base import checked_choice
from sparring.defenses.attacking import objectives as o
from sparring.defenses.attacking.scene import Objective
from sparring.defenses.stack import Stack

EFFORTS = ("quick", "standard", "thorough")
EOT_DRAWS = {"quick": 8, "standard": 16, "thorough": 32}
SWEEP = {
    "quick": (0.3, 3.0),
    "standard": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "thorough": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
"""Weights of the detectors' scores against the classifier's margin."""


@dataclass(frozen=True)
class Stage:
    """One attack on the stack. `steps` per run, `restarts` runs; `size`: of the first step in multiples of eps;
    `gradient`: "declared", or past the transforms, "identity"; `draws`: of the stack's randomness per step (EOT);
    `combine`: how two gradients become one; `start`: "random" or the "best" point so far; `aim`: "any" class, the
    "strongest" ones in turn, or clean "guides" to match; `foolable`: only for images whose answer was wrong at some
    point of some attack.
    """

    name: str
    objective: Objective
    steps: int = 100
    restarts: int = 1
    size: float = 1.0
    schedule: str = "cosine"
    gradient: str = "declared"
    draws: int = 1
    combine: str = "sum"
    start: str = "random"
    aim: str = "any"
    foolable: bool = False


@dataclass(frozen=True)
class Search:
    """A gradient-free search over `queries` random squares, from the best point so far, on at most `most` images."""

    name: str
    queries: int
    most: int
    draws: int = 1


def plan(stack: Stack, effort: str, scale: float) -> list[Stage | Search]:
    """The stages for `stack`. `scale`: its typical clean margin."""
    checked_choice("effort", effort, EFFORTS)
    steps = 50 if effort == "quick" else 100
    more = {"quick": 1, "standard": 2, "thorough": 5}[effort]
    stages = _on_the_classifier(stack, steps, more, effort)
    if stack.detectors:
        stages += _on_the_detectors(steps, more, effort, scale)
    if stack.random:
        draws = EOT_DRAWS[effort]
        cheap = [replace(stages[0], name="one draw: " + stages[0].name, restarts=1)]
        averaged = [replace(s, name=f"EOT-{draws}: {s.name}", draws=draws) for s in stages]
        stages = [*cheap, *averaged, *_on_the_last_draws(2 * draws, steps, more, scale)]
    queries = {"quick": 100, "standard": 300, "thorough": 1000}[effort]
    search = Search("gradient-free search", queries, 50 if effort == "quick" else 200, 4 if stack.random else 1)
    return [*stages, search]


def _on_the_last_draws(draws: int, steps: int, more: int, scale: float) -> list[Stage]:
    """For images that evade in some draws only: a loss that is content with the draws that are wrong already, over the
    whole ball and then around the best point.
    """
    hinge = o.Joint(1.0, scale)
    name = f"EOT-{draws}: the draws that are still right"
    return [
        Stage(name, hinge, steps, 1, draws=draws),
        Stage(f"{name}, nearby", hinge, steps, more, 0.25, draws=draws, start="best"),
    ]


def _on_the_classifier(stack: Stack, steps: int, more: int, effort: str) -> list[Stage]:
    surrogate = "BPDA surrogate" if stack.transforms else "PGD"
    stages = [
        Stage(f"{surrogate}, margin", o.Wrong(), steps, more),
        Stage(f"{surrogate}, cross-entropy", o.CrossEntropy(), steps, more, size=2.5 / steps, schedule="constant"),
    ]
    if stack.transforms:
        stages += [
            Stage("BPDA identity, margin", o.Wrong(), steps, more, gradient="identity"),
            Stage("BPDA identity, cross-entropy", o.CrossEntropy(), steps, 1, gradient="identity"),
        ]
    if effort != "quick":
        stages.append(Stage(f"{surrogate}, three strongest classes", o.Agreement(), steps, 3, aim="strongest"))
    return stages


def _on_the_detectors(steps: int, more: int, effort: str, scale: float) -> list[Stage]:
    sweep = SWEEP[effort]
    stages = [Stage("agreement of all views", o.Agreement(), steps, more)]
    stages += [Stage(f"detector in the loss, lambda {w:g}", o.Joint(w, scale), steps, 1, foolable=True) for w in sweep]
    stages += [
        Stage("selective PGD", o.Both(), steps, more, combine="selective", foolable=True),
        Stage("orthogonal PGD", o.Both(), steps, more, combine="orthogonal", foolable=True),
        Stage("logit matching", o.Match(scale), steps, more, aim="guides", foolable=True),
    ]
    if effort == "quick":
        return stages
    stages += [
        Stage(
            f"detector and cross-entropy, lambda {w:g}",
            o.CrossEntropy(w),
            steps,
            more,
            2.5 / steps,
            "constant",
            foolable=True,
        )
        for w in (0.01, 0.1, 1.0, 10.0)
    ]
    stages += [
        Stage(f"detector in the loss, lambda {w:g}, three strongest classes", o.Joint(w, scale), steps, 3)
        for w in (0.1, 1.0)
    ]
    stages = [replace(s, aim="strongest") if s.name.endswith("classes") else s for s in stages]
    return [*stages, Stage("straight at the nearest evasion", o.Worst(scale), steps, more, 0.25, start="best")]
