"""How contestants take turns, are timed, checked and scored. Knows no library."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

import peers

BATCHES = (64, 125, 250)  # each contestant that cannot choose for itself gets its best of these
SEED = 1000  # of the first repeat
SLACK = 1e-6  # float32 rounding of image + eps, generously


def predict(model: nn.Module, images: Tensor, batch: int = 125) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) for x in images.split(batch)])


@dataclass
class Contestant:
    name: str
    run: Callable[[int, int], Tensor]  # (batch, seed) -> candidates
    scored: bool = True
    judged: bool = False
    batch: int | None = None
    seconds: list[float] = field(default_factory=list)
    robust: list[float] = field(default_factory=list)
    reported: dict[int, float] = field(default_factory=dict)  # robust % a library claims, by seed
    over_budget: float = 0.0
    out_of_box: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def strength(self) -> float:
        return statistics.fmean(self.robust)

    def record(self) -> dict[str, object]:
        fields = {key: value for key, value in vars(self).items() if key != "run"}
        return fields | {"median_s": self.median, "robust_mean": self.strength if self.scored else None}


def clock(contestant: Contestant, batch: int, seed: int) -> tuple[float, Tensor]:
    torch.manual_seed(seed)
    np.random.seed(seed)
    start = time.process_time()
    candidates = contestant.run(batch, seed)
    return time.process_time() - start, candidates


def choose_batch(contestant: Contestant) -> int:
    """The batch size with the lowest median of five trials in turn.

    The median, not the minimum: from about 125 images on, glibc may hand each activation back to the kernel and
    fetch it anew (page faults, + 50 % time), in some rounds and not in others.
    """
    trials: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for seed in range(5):
        for batch, seconds in trials.items():
            seconds.append(clock(contestant, batch, seed)[0])
    return min(BATCHES, key=lambda batch: statistics.median(trials[batch]))


def warm_up(contestants: list[Contestant]) -> None:
    """One run each, as `choose_batch` gives the others."""
    for contestant in contestants:
        clock(contestant, 0, 0)


def score(contestant: Contestant, model: nn.Module, images: Tensor, labels: Tensor, candidates: Tensor) -> None:
    if candidates.shape != images.shape or not bool(candidates.isfinite().all()):
        raise SystemExit(f"{contestant.name} returned {tuple(candidates.shape)} for {tuple(images.shape)}, or NaN")
    exact = candidates.double()
    contestant.over_budget = max(contestant.over_budget, float((exact - images.double()).abs().max()) - peers.EPS)
    contestant.out_of_box = max(contestant.out_of_box, -float(exact.min()), float(exact.max()) - 1)
    right = (predict(model, images) == labels) & (predict(model, candidates.float()) == labels)
    contestant.robust.append(100 * int(right.sum()) / len(labels))


def race(contestants: list[Contestant], model: nn.Module, images: Tensor, labels: Tensor, repeats: int) -> None:
    for repeat in range(repeats):
        turn = contestants[repeat % len(contestants) :] + contestants[: repeat % len(contestants)]
        for contestant in turn:
            seconds, candidates = clock(contestant, contestant.batch or 0, SEED + repeat)
            contestant.seconds.append(seconds)
            if contestant.scored:
                score(contestant, model, images, labels, candidates)
        print(f"  repeat {repeat + 1}/{repeats} done", file=sys.stderr, flush=True)


def table(title: str, contestants: list[Contestant], reference: float) -> None:
    print(f"\n{title}\n{'contestant':34} {'batch':>5} {'CPU s':>7} {'min':>6} {'max':>6} {'ratio':>6} {'robust %':>9}")
    for c in contestants:
        strength = f"{c.strength:9.2f}" if c.scored else f"{'':9}"
        batch = c.batch if c.batch else "own"
        row = f"{c.median:7.3f} {min(c.seconds):6.3f} {max(c.seconds):6.3f} {c.median / reference:6.2f}"
        flag = f"  OVER BUDGET by {c.over_budget:.1e}" if c.over_budget > SLACK else ""
        flag += f"  OUT OF THE BOX by {c.out_of_box:.1e}" if c.out_of_box > 0 else ""
        print(f"{c.name:34} {batch!s:>5} {row} {strength}{flag}")


@dataclass
class Target:
    name: str
    value: float
    limit: float
    passed: bool

    @classmethod
    def at_most(cls, name: str, value: float, limit: float) -> Target:
        return cls(name, value, limit, value <= limit + 1e-9)

    @classmethod
    def at_least(cls, name: str, value: float, limit: float) -> Target:
        return cls(name, value, limit, value >= limit - 1e-9)

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.value:.3f} (target {self.limit:g})"


def honest(kind: str, contestants: list[Contestant]) -> list[Target]:
    """No candidate beyond box or budget; no claimed robust accuracy that our own check does not find."""
    targets = []
    for c in contestants:
        worst = max(c.over_budget - SLACK, c.out_of_box, 0.0)
        targets.append(Target.at_most(f"{c.name} ({kind}): candidates beyond box or budget", worst, 0.0))
        if c.reported:
            gaps = [abs(c.reported[SEED + i] - found) for i, found in enumerate(c.robust)]
            targets.append(Target.at_most(f"{c.name} ({kind}): robust %, claimed against found", max(gaps), 1e-6))
    return targets
