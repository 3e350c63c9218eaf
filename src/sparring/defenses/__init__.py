"""Defenses around a model: transforms before it, detectors beside it, the stack of them, and attacks on that stack."""

from typing import TYPE_CHECKING

from sparring import _lazy

if TYPE_CHECKING:
    from sparring.defenses import detectors, transforms
    from sparring.defenses.adaptive import evaluate_stack
    from sparring.defenses.outcome import StackOutcome
    from sparring.defenses.policy import Policy
    from sparring.defenses.stack import Decision, Stack
    from sparring.defenses.stored import load_stack, save_stack

__all__ = [
    "Decision",
    "Policy",
    "Stack",
    "StackOutcome",
    "detectors",
    "evaluate_stack",
    "load_stack",
    "save_stack",
    "transforms",
]

_HOMES = {
    "adaptive": ("evaluate_stack",),
    "outcome": ("StackOutcome",),
    "policy": ("Policy",),
    "stack": ("Decision", "Stack"),
    "stored": ("load_stack", "save_stack"),
}


if not TYPE_CHECKING:  # with it a type checker would believe in any name

    def __getattr__(name: str) -> object:
        return _lazy.find(__name__, name, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()} - {"TYPE_CHECKING"})
