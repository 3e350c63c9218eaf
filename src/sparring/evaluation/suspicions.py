"""What makes a model's verdicts doubtful, seen at the cost of a few images: probabilities, random answers."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.problem import Problem
from sparring.threat import ThreatModel

ASKED_TWICE = 8
"""Images that an evaluation shows to the model once more."""
TOLERATED = 1e-4
"""Difference between two answers, in units of the largest logit, that rounding may explain (Croce & Hein 2020)."""
INFINITE = "the model returns infinite logits"
"""How the warning of them begins."""

PROBE, HONEST = 0.01, 4.0
"""Step of a probe in units of the box, and the factor by which its effect may miss what the gradient says."""


def suspicions(first: Tensor, second: Tensor) -> tuple[str, ...]:
    """Warnings about a model that answered `first` and then `second` (N, K) to the same images; none for one that is
    as it should be.
    """
    first, second = first.float(), second.float()
    warnings = []
    if look_like_probabilities(first):
        warnings.append(
            "the model returns probabilities, not logits: through a second softmax attacks see next to no gradient and "
            'the model looks robust; remove the softmax or wrap the model in OutputAdapter(model, "probabilities")'
        )
    change = relative_change(first, second)
    if change > TOLERATED:
        warnings.append(
            f"the model is random: its logits for the same images differ by {change:.1e} of their scale from call to "
            "call; each verdict here rests on one draw, and robust accuracy can err in both directions"
        )
    return tuple(warnings)


def misleading(problem: Problem) -> Tensor:
    """Bool (N,): a small step along the gradient of the margin does not do what the gradient says: it is zero, or the
    margin changes by less than a quarter or more than four times of what is promised.
    """
    low, high = problem.threat.bounds
    small = ThreatModel("linf", PROBE * (high - low), problem.threat.bounds, problem.threat.mask)
    at = problem.gradient(problem.images, "margin")
    step = small.around(problem.images).steepest_step(at.grad)
    promised = (at.grad * step).flatten(1).double().sum(1)
    change = problem.loss_values(problem.logits(problem.images + step), "margin").double() - at.values.double()
    kept = change / promised
    return ~((kept > 1 / HONEST) & (kept < HONEST))  # NaN and zero too


def look_like_probabilities(outputs: Tensor) -> bool:
    """Is every row of `outputs` (N, K) non-negative with the sum 1, up to 1e-5 (Croce & Hein 2020)?"""
    inside = bool((outputs >= -1e-5).all()) and bool((outputs <= 1 + 1e-5).all())
    return inside and bool(((outputs.sum(1) - 1).abs() < 1e-5 * outputs.shape[1]).all())


def relative_change(first: Tensor, second: Tensor) -> float:
    """Largest difference of two answers (N, K) in units of the first one's largest logit; equal infinities and NaN in
    the same place do not differ.
    """
    same = (first == second) | (first.isnan() & second.isnan())
    finite = torch.where(first.isfinite(), first, torch.zeros_like(first))
    scale = finite.abs().max().clamp_min(1e-12)
    change = torch.where(same, torch.zeros_like(first), (first - second).abs())
    return float(change.nan_to_num(nan=torch.inf, posinf=torch.inf).max() / scale)
