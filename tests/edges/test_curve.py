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
    assert halved.distances is not None
    assert halved.distances[:3] == (0, 0, 0), "wrong to begin with"
    assert [sum(distance > eps for distance in halved.distances) for eps in BUDGETS] == [
        a * 40 for a in afresh.accuracy
    ]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_between_the_budgets_the_distances_are_nearly_the_least(norm: str) -> None:
    """Closed form of a linear model with two classes, in a box wide enough never to clip."""
    model, images = Linear(16, 2, dtype=torch.float64), pictures(30, 1, 4, 4, dtype=torch.float64)
    logits, weights = model(images).detach(), (model.weight[0] - model.weight[1]).detach()
    dual = {"linf": weights.abs().sum(), "l2": weights.norm(), "l1": weights.abs().max()}[norm]
    exact = (logits[:, 0] - logits[:, 1]).abs() / dual
    top = float(exact.max()) * 1.01
    curve = sp.robustness_curve(
        model,
        images,
        logits.argmax(1),
        norm=norm,
        eps=[0, top / 4, top / 2, top],
        attacks=["fgsm"],
        bounds=(-100, 100),
    )
    found = torch.tensor(curve.distances)
    assert bool((found >= exact * (1 - 1e-6)).all())
    assert bool((found <= (exact + top / 4 / 2**5) * 1.01).all()), "five halvings of a bracket, five of a quarter"
    middle = float(exact.median())
    assert curve.at(middle * 0.999).value == pytest.approx(float((found > middle * 0.999).double().mean()))


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
    rounds, drawn_in = math.ceil(math.log2(33)), 5  # each with a gradient, 5 forward passes without and 5 * 9 with
    assert Counting.seen <= 50 * ((3 + drawn_in) * rounds + drawn_in * 9) + 8 * 2 * 32


def test_any_budget_can_be_asked_for() -> None:
    model, images = Linear(16, 3, dtype=torch.float32), pictures(30, 1, 4, 4)
    labels = model(images).argmax(1)
    curve = sp.robustness_curve(model, images, labels, eps=[0.01, 0.02, 0.04])
    assert [curve.at(eps) for eps in curve.eps] == list(curve.accuracy)
    assert curve.accuracy[1] >= curve.at(0.03) >= curve.accuracy[2]
    assert curve.at(0.005) >= curve.accuracy[0]
    assert curve.at("1/2") is curve.accuracy[2], "nothing beyond the largest was tried"
    assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)
    raw = sp.robustness_curve(model, images, labels, eps=[0.01, 0.02, 0.04], attacks=["fgsm"], carry=False)
    assert raw.at(0.03) is raw.accuracy[1]
    with pytest.raises(InputError, match=r"at least 0\.01"):
        raw.at(0.005)


def test_every_drawn_in_adversarial_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is nearer to an adversarial than the exact minimum of its linear model, whatever the attack overshot."""
    model, images = Linear(16, 3, dtype=torch.float32), pictures(40, 1, 4, 4)
    labels = model(images).argmax(1)
    curve = sp.robustness_curve(model, images, labels, eps=[0.5], attacks=["random_noise:draws=30"])
    again = sp.evaluate(model, images, labels, sp.ThreatModel("linf", 0.5), attacks=["random_noise:draws=30"])
    assert [d <= 0.5 for d in curve.distances or ()] == [r.broken_by is not None for r in again.records]
    assert min(curve.distances or ()) < 0.25, "noise is drawn in"
    difference = model.weight[labels][:, None] - model.weight[None]  # (N, K, D)
    logits, difference = model(images).detach(), difference.detach()
    lead = logits.gather(1, labels[:, None]) - logits
    exact = (lead / difference.abs().sum(2).clamp_min(1e-9)).masked_fill(lead == 0, torch.inf).amin(1)
    assert all(d >= float(e) * (1 - 1e-4) for d, e in zip(curve.distances or (), exact, strict=True))
