"""Images leave an ascent only when the rest of the steps could not solve them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparring as sp
from sparring.attacks.outlook import WINDOW, Outlook


def first_hopeless(margins: list[float], sizes: list[float], reach: float = 0.1) -> int | None:
    outlook = Outlook(sizes, reach)
    for step, value in enumerate(margins[: len(sizes)]):
        if bool(outlook.hopeless(step, torch.tensor([value]))):
            return step
    return None


def test_a_margin_that_falls_fast_enough_stays_to_the_end() -> None:
    falling = [1.01 - step / 40 for step in range(40)]
    assert first_hopeless(falling, [0.1] * 40) is None


def test_a_margin_that_falls_too_slowly_leaves_as_soon_as_the_window_is_full() -> None:
    crawling = [1 - 1e-4 * step for step in range(40)]
    assert first_hopeless(crawling, [0.1] * 40) == WINDOW


def test_nobody_leaves_before_the_steps_could_have_crossed_the_ball() -> None:
    crawling = [1 - 1e-4 * step for step in range(40)]
    assert first_hopeless(crawling, [0.1] * 40, reach=1.95) == 20


def test_a_fall_that_gathers_speed_goes_on_gathering() -> None:
    """The margin loses 1.6 times more with every step: 1e-6 at first, all of it before the last."""
    gathering = [1 - 1e-6 * (1.6**step - 1) for step in range(40)]
    assert gathering[30] < 0
    assert first_hopeless(gathering, [0.1] * 40) is None


def test_the_pace_counts_per_unit_of_step_length() -> None:
    """With shrinking steps the same change per step is a growing pace, and little length remains."""
    sizes = [0.1 * 0.5**step for step in range(12)]
    outlook = Outlook(sizes, 0.1)
    margins = [10 - sum(sizes[:step]) for step in range(12)]
    leaves = [bool(outlook.hopeless(step, torch.tensor([value]))) for step, value in enumerate(margins)]
    assert leaves.index(True) == WINDOW, "10 logits cannot be lost at 1 per unit over what remains"


def test_standing_still_and_nan_are_no_reason_to_leave() -> None:
    assert first_hopeless([1.0] * 40, [0.1] * 40) is None
    assert first_hopeless([float("nan")] * 40, [0.1] * 40) is None


def test_rises_count_as_pace() -> None:
    """Cross-entropy may raise the margin while it pulls at another class; the turn comes later."""
    swinging = [1.0 + 0.3 * (step % 2) for step in range(20)]
    assert first_hopeless(swinging, [0.1] * 20) is None


class Stairs(nn.Module):
    """Activations rounded to steps, with a straight-through gradient: the margin stands still, then jumps."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        rounded = total + ((total / 0.5).floor() * 0.5 - total).detach()
        return torch.stack([1.2 - rounded, rounded - 1.2], 1)


def test_rounded_activations_break_all_the_same() -> None:
    images = torch.full((6, 1, 2, 2), 0.1)
    labels = torch.zeros(6, dtype=torch.int64)
    threat = sp.ThreatModel("linf", 0.3)
    attack = sp.attacks.PGD(steps=40, step_size=0.0075, random_start=False)
    assert sp.evaluate(Stairs(), images, labels, threat, attacks=[attack]).robust_accuracy == 0.0


class Saturated(nn.Module):
    """Logits that end in a softmax: nearly flat where the model is sure, steeper with every step away from there."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) / 8

    def forward(self, x: Tensor) -> Tensor:
        return 10 * (24 * (x.flatten(1) - 0.5) @ self.weight.T).softmax(1)


@pytest.mark.parametrize("text", ["mifgsm:steps=60", "pgd:steps=60,step_size=0.005", "bim:steps=60,step_size=0.005"])
def test_small_steps_out_of_a_saturated_region_are_not_given_up(text: str) -> None:
    model, images = Saturated(), torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    threat = sp.ThreatModel("linf", 0.15)
    early, full = (
        sp.evaluate(model, images, labels, threat, attacks=[f"{text},early_stop={stop}"]) for stop in ("true", "false")
    )
    assert early.robust_accuracy <= full.robust_accuracy + 1 / 60
    assert full.robust_accuracy < 0.1


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.15])
@pytest.mark.parametrize("text", ["steps=40,step_size=0.01", "steps=40", "steps=20,loss=margin"])
def test_leaving_early_costs_no_success_on_the_digits(text: str, eps: float) -> None:
    model = sp.load_model("digits-cnn")
    images, labels = sp.load_data("digits", n=200)
    threat = sp.ThreatModel("linf", eps)
    early = sp.evaluate(model, images, labels, threat, attacks=[f"pgd:{text},random_start=false"])
    full = sp.evaluate(model, images, labels, threat, attacks=[f"pgd:{text},random_start=false,early_stop=false"])
    assert abs(early.robust_accuracy - full.robust_accuracy) <= 1 / 200
    assert early.stages[0].backwards < 0.7 * full.stages[0].backwards


class Cliff(nn.Module):
    """A margin that hardly moves until most of the budget is spent, and then falls off."""

    def forward(self, x: Tensor) -> Tensor:
        share = (x - 0.5).flatten(1).mean(1) / 0.1
        margin = 1 - 0.02 * share - 20 * (share - 0.7).relu()
        return torch.stack([margin, torch.zeros_like(margin)], 1)


@pytest.mark.parametrize("text", ["pgd:steps=40,step_size=0.01,random_start=false", "bim:steps=40", "mifgsm:steps=20"])
def test_a_cliff_near_the_end_of_the_budget_is_reached(text: str) -> None:
    images, labels = torch.full((5, 1, 4, 4), 0.5), torch.zeros(5, dtype=torch.int64)
    assert sp.evaluate(Cliff(), images, labels, sp.ThreatModel("linf", 0.1), attacks=[text]).robust_accuracy == 0.0
