"""What to change after a collapse: the mildest thing that could have caused it, one change at a time."""

from __future__ import annotations

from dataclasses import replace

from sparring.hardening.method import Method
from sparring.hardening.methods import NFGSM, PGD, RSFGSM, Free
from sparring.hardening.recipe import Recipe
from sparring.threat import ThreatModel

Change = tuple[Method, Recipe, str]


def remedy(method: Method, recipe: Recipe, threat: ThreatModel) -> Change | None:
    """Method and recipe to go on with, and what changed; None where nothing is left to try.

    Single steps: a random start, a smaller step or less noise, GradAlign, and in the end more steps. Methods that are
    meant to be weak (clean, FGSM mix) are left alone: the watch only says what they are.
    """
    if isinstance(method, RSFGSM) and not method.random_start:
        return replace(method, random_start=True, step=1.25), recipe, "random start, step 1.25 eps"
    if isinstance(method, RSFGSM) and method.step > 1:
        return replace(method, step=1.0), recipe, "smaller step, 1 eps"
    if isinstance(method, NFGSM) and method.noise > 1:
        return replace(method, noise=method.noise / 2), recipe, f"less noise, {method.noise / 2:g} eps"
    if isinstance(method, (RSFGSM, NFGSM)) and not recipe.grad_align and threat.norm == "linf":
        return method, replace(recipe, grad_align=0.2), "GradAlign, weight 0.2"
    if isinstance(method, (RSFGSM, NFGSM, Free)):
        return PGD(steps=3), replace(recipe, grad_align=0.0), "three steps instead of one"
    if isinstance(method, PGD) and method.inner is None and method.steps < 20:
        more = min(20, 2 * method.steps)
        return replace(method, steps=more, step_size=None, random_start=True), recipe, f"{more} steps"
    return None
