"""Attacks on a model by way of something else: a surrogate, or all the points that another attack has looked at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparring.attacks import MIFGSM, Attack
from sparring.attacks.wrapper import Wrapper
from sparring.errors import InputError
from sparring.model import Model, logits_of
from sparring.norms import per_image
from sparring.problem import Problem

PAIRS = 2**24
"""Numbers that points and images are compared in at a time."""


@dataclass(frozen=True, kw_only=True)
class ThroughSurrogate(Attack):
    """`attack` on `surrogate`; what it finds there is offered as it is (Papernot et al. 2017). `learnt`: how the
    surrogate came about, in a few words, for the reports.
    """

    access: ClassVar[str] = "labels"
    paper: ClassVar[str] = "Papernot et al., Practical Black-Box Attacks against Machine Learning, AsiaCCS 2017"

    surrogate: nn.Module = field(default_factory=nn.Identity, repr=False)
    attack: Attack = field(default_factory=MIFGSM)
    learnt: str = "distilled"

    def __post_init__(self) -> None:
        object.__setattr__(self, "threats", self.attack.threats)

    def __str__(self) -> str:
        return f"{self.attack} on a surrogate, {self.learnt}"

    def run(self, problem: Problem) -> Tensor:
        """What fools the surrogate."""
        return self.attack.run(replace(problem, model=self.surrogate))


@dataclass(frozen=True, kw_only=True)
class BestSeen(Wrapper):
    """Of all points that `attack` shows to the model, for each image the first one in its region that meets the goal;
    where there is none, what the attack returns. What it passed by on its way counts (AttackBench, Cinà et al. 2024).
    """

    paper: ClassVar[str] = "Pintor et al., Indicators of Attack Failure, NeurIPS 2022"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.attack, BestSeen):
            raise InputError("every point is looked at already")

    def __str__(self) -> str:
        return f"{self.attack}, best point seen"

    def run(self, problem: Problem) -> Tensor:
        """Group by group, so that few points are compared with few images."""
        found = torch.empty_like(problem.images)
        size = max(1, min(32, PAIRS // (64 * problem.images[0].numel())))
        for rows in torch.arange(len(problem), device=problem.images.device).split(size):  # type: ignore[no-untyped-call]
            chosen = torch.zeros(len(problem), dtype=torch.bool, device=rows.device)
            chosen[rows] = True
            found[rows] = self._run(problem.select(chosen))
        return found

    def _run(self, problem: Problem) -> Tensor:
        watching = _Watching(problem.model, problem)
        left = self.attack.run(replace(problem, model=watching))
        return torch.where(per_image(watching.seen, left), watching.best, left)


class _Watching(nn.Module):
    """Looks over the shoulder of an attack."""

    def __init__(self, inner: Model, problem: Problem) -> None:
        super().__init__()
        self._inner, self._problem = [inner], problem  # a list hides it: its flags are not ours
        self.seen = torch.zeros(len(problem), dtype=torch.bool, device=problem.images.device)
        self.best = problem.images.clone()

    def forward(self, points: Tensor) -> Tensor:
        logits = logits_of(self._inner[0], points)
        with torch.no_grad():
            self._look(points.detach(), logits.detach())
        return logits

    def _look(self, points: Tensor, logits: Tensor) -> None:
        for i in (~self.seen).nonzero().flatten().tolist():
            image = self._problem.images[i : i + 1]
            goal = self._problem.goal.select(torch.full((len(points),), i, device=points.device))
            inside = self._problem.threat.contains(image.expand_as(points), points)
            met = (goal.is_met(logits) & inside).nonzero().flatten()
            if len(met):
                self.seen[i], self.best[i] = True, points[met[0]]


def forwards_only_to_verify(tried: int, forwards: int, backwards: int) -> bool:
    """Did an attack never ask the model? Then only the driver's check of every candidate was counted."""
    return tried > 0 and forwards <= tried and backwards == 0


def known(kind: type[Any], table: dict[str, type[Attack]]) -> bool:
    """Is this one of our own attacks?"""
    return kind in table.values() or kind.__module__.startswith("sparring.")
