"""Losses and goals against formulas written again, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tests.helpers_core import generator, small_net
from torch import Tensor

from sparring import losses
from sparring.batching import Plan
from sparring.errors import InputError
from sparring.goal import Targeted, Untargeted
from sparring.problem import Problem
from sparring.rng import Streams, digests
from sparring.threat import ThreatModel

LOGITS = torch.randn(50, 6, generator=generator(0), dtype=torch.float64) * 5
LABELS = torch.randint(0, 6, (50,), generator=generator(1))
GOALS = (Untargeted(LABELS), Targeted(LABELS))
NAMED = list(losses.LOSSES)


def others(row: np.ndarray, label: int) -> np.ndarray:
    return np.delete(row, label)


def test_cross_entropy() -> None:
    z, y = LOGITS.numpy(), LABELS.numpy()
    expected = logsumexp(z, axis=1) - z[np.arange(50), y]
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, Untargeted(LABELS)), expected)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, Targeted(LABELS)), -expected)


def test_margin() -> None:
    expected = np.array([others(z, y).max() - z[y] for z, y in zip(LOGITS.numpy(), LABELS.numpy(), strict=True)])
    np.testing.assert_allclose(losses.margin(LOGITS, Untargeted(LABELS)), expected)
    np.testing.assert_allclose(losses.margin(LOGITS, Targeted(LABELS)), -expected)


def test_dlr_is_equation_5_and_its_targeted_form() -> None:
    plain, aimed = [], []
    for z, y in zip(LOGITS.numpy(), LABELS.numpy(), strict=True):
        top = np.sort(z)[::-1]
        plain.append(-(z[y] - others(z, y).max()) / (top[0] - top[2]))
        aimed.append(-(others(z, y).max() - z[y]) / (top[0] - (top[2] + top[3]) / 2))
    np.testing.assert_allclose(losses.dlr(LOGITS, Untargeted(LABELS)), plain)
    np.testing.assert_allclose(losses.dlr(LOGITS, Targeted(LABELS)), aimed)


@pytest.mark.parametrize("goal", GOALS, ids=["untargeted", "targeted"])
@pytest.mark.parametrize("name", NAMED)
def test_losses_ignore_a_constant_and_rise_towards_the_goal(name: str, goal: Untargeted | Targeted) -> None:
    loss = losses.LOSSES[name]
    plain = loss(LOGITS, goal)
    for shift in (-100.0, 1000.0):
        torch.testing.assert_close(loss(LOGITS + shift, goal), plain)
    nearer = LOGITS.clone()
    nearer[torch.arange(50), LABELS] -= goal.sign * 0.01
    assert bool((loss(nearer, goal) > plain).all())


@pytest.mark.parametrize("name", ["margin", "dlr"])
def test_margin_and_dlr_are_positive_exactly_where_the_goal_is_met(name: str) -> None:
    for goal in GOALS:
        value = losses.LOSSES[name](LOGITS, goal)
        assert torch.equal(value > 0, goal.is_met(LOGITS))


def test_dlr_does_not_see_the_scale() -> None:
    for goal in GOALS:
        torch.testing.assert_close(losses.dlr(LOGITS * 100, goal), losses.dlr(LOGITS, goal), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("goal_kind", [Untargeted, Targeted])
@pytest.mark.parametrize("name", NAMED)
def test_the_gradient_of_an_image_does_not_depend_on_its_neighbours(name: str, goal_kind: type) -> None:
    net = small_net().double()
    images = torch.rand(6, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    labels = LABELS[:6]

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(losses.LOSSES[name](net(x), goal_kind(y)).sum(), x)
        return found

    together = gradient(images, labels)
    for i in range(6):
        torch.testing.assert_close(gradient(images[i : i + 1], labels[i : i + 1])[0], together[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("name", NAMED)
def test_a_problem_sums_and_never_averages(name: str, batch_size: int) -> None:
    """An image's gradient is that of its own loss, whatever the batch."""
    net = small_net().double()
    images = torch.rand(6, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    goal, threat = Untargeted(LABELS[:6]), ThreatModel("linf", 0.1)
    streams = Streams(0, "test", digests(images))
    problem = Problem.build(net, images, goal, threat, streams, Plan(batch_size, channels_last=False))
    found = problem.gradient(images, name)
    for i in range(6):
        x = images[i : i + 1].clone().requires_grad_()
        value = losses.LOSSES[name](net(x), Untargeted(LABELS[i : i + 1]))
        (expected,) = torch.autograd.grad(value.sum(), x)
        torch.testing.assert_close(found.grad[i], expected[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(found.values[i], value[0].detach(), rtol=0, atol=1e-12)
    assert problem.ledger.forwards.tolist() == problem.ledger.backwards.tolist() == [1] * 6


def test_too_few_classes_fall_back_to_the_margin_and_say_so() -> None:
    for classes, targeted, falls_back in ((2, False, True), (3, False, False), (3, True, True), (4, True, False)):
        loss, note = losses.resolve("dlr", classes, targeted=targeted)
        assert (loss is losses.margin) == falls_back
        assert (note is not None) == falls_back
        if note:
            assert str(classes) in note
    with pytest.raises(InputError, match="cross_entropy"):
        losses.resolve("entropy", 5, targeted=False)


def test_ties_and_nan_never_count_as_a_success_by_accident() -> None:
    tie = torch.tensor([[1.0, 1.0, 0.0]])
    assert Untargeted(torch.tensor([0])).is_met(tie).tolist() == [False]
    for bad in ([torch.nan, 0.0, 1.0], [0.0, 1.0, torch.nan]):
        logits = torch.tensor([bad])
        assert not Untargeted(torch.tensor([0])).is_met(logits).any()
        assert not Targeted(torch.tensor([0])).is_met(logits).any()
        assert not Targeted(torch.tensor([2])).is_met(logits).any()
    infinite = torch.tensor([[torch.inf, 0.0, 1.0]])
    assert Untargeted(torch.tensor([1])).is_met(infinite).all()


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0.0, 1.0]),
        torch.tensor([True]),
        torch.tensor([-1]),
        torch.tensor(3),
        torch.zeros(2, 1).long(),
        [0],
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", [Untargeted, Targeted])
def test_labels_that_are_no_classes_are_refused(kind: type, labels: object) -> None:
    with pytest.raises(InputError):
        kind(labels)


def test_small_integer_types_become_int64() -> None:
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert Untargeted(torch.tensor([1, 2], dtype=dtype)).labels.dtype == torch.int64
