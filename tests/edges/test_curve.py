"""Accuracy at every budget at once."""

from __future__ import annotations

import math

import pytest
import torch
from tests.helpers_core import Linear, pictures

import sparring as sp
from sparring.errors import InputError

BUDGETS = [k / 64 for k in range(32)]


def test_halving_finds_what_every_budget_by_itself_finds() -> None:
    """On a linear model with two classes the steepest step is optimal, so both ways must agree exactly."""
    model, images = Linear(16, 2, dtype=torch.float64), pictures(40, 1, 4, 4, dtype=torch.float64)
    labels = model(images).argmax(1)
    labels[:3] = 1 - labels[:3]
    halved = sp.robustness_curve(model, images, labels, eps=BUDGETS, attacks=["fgsm"])
    afresh = sp.robustness_curve(model, images, labels, eps=BUDGETS, attacks=["fgsm"], carry=False)
    assert halved.accuracy == afresh.accuracy
    assert halved.broken_at is not None
    assert halved.broken_at[:3] == (0, 0, 0), "wrong to begin with"
    assert [sum(place > k for place in halved.broken_at) for k in range(32)] == [a * 40 for a in afresh.accuracy]


def test_32_budgets_cost_six_evaluations_at_most() -> None:
    class Counting(Linear):
        seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counting.seen += len(x)
            return super().forward(x)

    model, images = Counting(16, 3, dtype=torch.float32), pictures(50, 1, 4, 4)
    labels = model(images).argmax(1)
    Counting.seen = 0
    sp.robustness_curve(model, images, labels, eps=BUDGETS, attacks=["fgsm"])
    assert Counting.seen <= 50 * 3 * math.ceil(math.log2(33)) + 40 * 32


def test_between_two_budgets_the_smaller_one_speaks() -> None:
    model, images = Linear(16, 3, dtype=torch.float32), pictures(30, 1, 4, 4)
    curve = sp.robustness_curve(model, images, model(images).argmax(1), eps=[0.01, 0.02, 0.04])
    assert curve.at(0.02) is curve.accuracy[1]
    assert curve.at(0.03) is curve.accuracy[1]
    assert curve.at("1/2") is curve.accuracy[2]
    with pytest.raises(InputError, match=r"at least 0\.01"):
        curve.at(0.005)
    assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)
