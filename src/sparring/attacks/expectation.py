"""Expectation over transformation, for models with randomness (Athalye, Carlini & Wagner 2018, arXiv:1802.00420)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from sparring.attacks.base import at_least
from sparring.attacks.wrapper import Wrapper
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class EOT(Wrapper):
    """Any attack on a model with randomness: every time `attack` asks, the model answers `draws` times.

    Gradients and losses are averaged over the draws. A point counts as adversarial only where every draw says so, so
    no image leaves for one lucky draw. Every draw is counted as a pass, and the driver verifies with fresh ones.
    """

    paper: ClassVar[str] = "Athalye, Carlini & Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018"

    draws: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("draws", self.draws, 1, whole=True)

    def run(self, problem: Problem) -> Tensor:
        """What the wrapped attack finds."""
        return self.attack.run(replace(problem, draws=problem.draws * self.draws))
