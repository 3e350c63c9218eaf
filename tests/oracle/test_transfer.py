"""The transfer attacks against their formulas written again, and against a net they have not seen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from scipy.stats import norm as normal
from tests.helpers_core import Linear, assert_allowed, digits, forked_seed, pictures, train
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import BIM, DIFGSM, MIFGSM, NIFGSM, TIFGSM, Attack, TransferFGSM
from sparring.attacks.transfer import _gradient_through, _placement, _smoothed
from sparring.batching import Plan
from sparring.goal import Goal
from sparring.problem import Problem
from sparring.rng import Streams, digests

ALL = [NIFGSM(), NIFGSM(scales=5), DIFGSM(), TIFGSM(), TransferFGSM()]
LINF = sp.ThreatModel("linf", 0.1)


def problem_of(model: object, images: Tensor, goal: Goal, threat: sp.ThreatModel = LINF) -> Problem:
    return Problem.build(model, images, goal, threat, Streams(0, "test", digests(images)), Plan(16, False))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net(digits_net: nn.Module) -> nn.Module:
    return copy.deepcopy(digits_net).double()


@pytest.fixture(scope="module")
def images(digits_data: tuple[Tensor, Tensor]) -> Tensor:
    return digits_data[0][:12].double()


def paper(
    model: nn.Module, x: Tensor, goal: Goal, steps: int, eps: float, *, nesterov: bool, scales: int, kernel: int
) -> Tensor:
    """SI-NI-TI-FGSM in linf as printed, without diversity: all iterates (steps, N, C, H, W)."""
    sign, reference, size = goal.sign, goal.reference, eps / steps
    at, velocity, iterates = x, torch.zeros_like(x), []
    for _ in range(steps):
        ahead = (at + size * velocity).clamp(0, 1) if nesterov else at
        total = torch.zeros_like(x)
        for i in range(scales):
            leaf = ahead.detach().clone().requires_grad_()
            loss = sign * nn.functional.cross_entropy(model(leaf / 2**i), reference, reduction="sum")
            total += torch.autograd.grad(loss, leaf)[0]
        if kernel > 1:
            column = normal.pdf(np.linspace(-3, 3, kernel))
            weights = np.outer(column, column) / np.outer(column, column).sum()
            total = torch.stack(
                [torch.stack([torch.from_numpy(convolve2d(p.numpy(), weights, "same")) for p in t]) for t in total]
            )
        velocity = velocity + total / total.abs().mean((1, 2, 3), keepdim=True)
        at = torch.minimum(torch.maximum(at + size * velocity.sign(), x - eps), x + eps).clamp(0, 1)
        iterates.append(at)
    return torch.stack(iterates)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("attack", "form"),
    [
        (NIFGSM(), {"nesterov": True, "scales": 1, "kernel": 1}),
        (NIFGSM(scales=3), {"nesterov": True, "scales": 3, "kernel": 1}),
        (TIFGSM(kernel=5), {"nesterov": False, "scales": 1, "kernel": 5}),
        (TIFGSM(), {"nesterov": False, "scales": 1, "kernel": 15}),
        (TransferFGSM(diversity=0.0, kernel=3, scales=2), {"nesterov": True, "scales": 2, "kernel": 3}),
    ],
    ids=str,
)
def test_the_iterates_are_the_papers(
    attack: Attack, form: dict[str, int], targeted: bool, net: nn.Module, images: Tensor
) -> None:
    """What comes back is one of the iterates, the last wherever that meets the goal."""
    right = net(images).argmax(1)
    goal: Goal = sp.Targeted((right + 1) % 10) if targeted else sp.Untargeted(right)
    iterates = paper(net, images, goal, 10, 0.3, **form)
    found = attack(net, images, goal, sp.ThreatModel("linf", 0.3))
    same = (iterates - found).abs().amax((2, 3, 4)) < 1e-9
    assert bool(same.any(0).all())
    met = torch.stack([goal.is_met(net(x)) for x in iterates])
    assert bool(same[-1][met[-1]].any())
    assert torch.equal(goal.is_met(net(found)) | ~met.any(0), torch.ones(len(images), dtype=torch.bool))


def test_without_its_detours_it_is_momentum(net: nn.Module, images: Tensor) -> None:
    goal = sp.Untargeted(net(images).argmax(1))
    for threat in (LINF, sp.ThreatModel("l2", 0.5)):
        plain = TransferFGSM(nesterov=False, scales=1, diversity=0, kernel=1)
        same = (plain, TIFGSM(kernel=1), DIFGSM(diversity=0), DIFGSM(shrink=1))
        expected = MIFGSM(early_stop=False)(net, images, goal, threat)
        for attack in same:
            found = attack(net, images, goal, threat)
            moved = goal.is_met(net(expected))
            torch.testing.assert_close(found[moved], expected[moved], rtol=0, atol=1e-9)


def test_the_gradient_goes_back_through_the_change(net: nn.Module, images: Tensor) -> None:
    """Against autograd through model and change in one piece."""
    goal = sp.Untargeted(net(images).argmax(1))
    for chance in (1.0, 0.5):
        change = _placement(problem_of(net, images, goal), chance, 0.7)
        points = (0.9 * images + 0.05).requires_grad_()
        value = nn.functional.cross_entropy(net(change(points)), goal.reference, reduction="sum")
        (expected,) = torch.autograd.grad(value, points)
        found = _gradient_through(problem_of(net, images, goal), change, points.detach(), "cross_entropy")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_picture_is_shrunk_and_placed_whole() -> None:
    """A white picture stays white inside its new frame and is the darkest value outside; sizes and places differ."""
    white = torch.ones(200, 1, 20, 30, dtype=torch.float64) + torch.arange(200).view(-1, 1, 1, 1) * 1e-6
    for low in (0.0, -1.0):
        threat = sp.ThreatModel("linf", 0.1, bounds=(low, 2))
        problem = problem_of(None, white, sp.Untargeted(torch.zeros(200).long()), threat)
        placed = _placement(problem, 1.0, 0.5)(white)
        inside = (placed - 1).abs() < 1e-3
        assert bool((inside | (placed == low)).all())
        height, width = (inside.any(axis).flatten(1).sum(1) for axis in (3, 2))
        assert height.min() >= 9
        assert height.max() >= 19
        assert torch.equal(inside.flatten(1).sum(1), height * width), "a frame is a rectangle"
        assert (height / 20 - width / 30).abs().max() < 0.12, "the shape is kept"
        corner = inside[:, 0].flatten(1).double().argmax(1)
        assert len(corner.unique()) > 20
    moved = (_placement(problem, 0.5, 0.5)(white) != white).flatten(1).any(1)
    assert 70 < moved.sum() < 130


def test_the_middle_of_a_picture_stays_a_picture() -> None:
    """A linear ramp shrunk to s has the slope 1/s: bilinear sampling of the right places."""
    ramp = torch.linspace(-1, 1, 40, dtype=torch.float64).expand(20, 1, 40, 40).contiguous()
    ramp = (ramp + 1) / 2 + torch.arange(20).view(-1, 1, 1, 1) * 1e-6
    placed = _placement(problem_of(None, ramp, sp.Untargeted(torch.zeros(20).long())), 1.0, 0.5)(ramp)
    for picture in placed[:, 0]:
        row = picture[20][picture[20] > 0.02]
        slopes = row.diff()[2:-2]
        share = len(row) / 40
        assert slopes.std() < 1e-6
        assert float(slopes.mean()) == pytest.approx(1 / 39 / share, rel=0.1)


@pytest.mark.parametrize("width", [3, 15])
def test_smoothing_keeps_a_flat_gradient_and_spreads_a_point(width: int) -> None:
    grad = torch.zeros(2, 3, 31, 33, dtype=torch.float64)
    grad[:, 1, 15, 16] = 1
    spread = _smoothed(grad, width)
    assert float(spread[0].sum()) == pytest.approx(1)
    assert float(spread[0, 0].abs().max()) == 0
    assert int((spread[0, 1] > 0).sum()) == width**2
    torch.testing.assert_close(spread[0, 1], spread[0, 1].flip(0))
    flat = _smoothed(torch.ones(1, 1, 31, 31, dtype=torch.float64), width)
    torch.testing.assert_close(flat[0, 0, 15, 15], torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("attack", ALL, ids=str)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.2, 3.0)], ids=str)
def test_the_model_is_never_asked_outside_the_box(attack: Attack, bounds: tuple[float, float]) -> None:
    low, high = bounds
    images = pictures(6, 1, 8, 8) * (high - low) + low
    images = images.clamp(low, high)
    model = Linear(64)

    def careful(x: Tensor) -> Tensor:
        assert bool(((x >= low) & (x <= high)).all())
        return model(x)

    goal, threat = sp.Untargeted(model(images).argmax(1)), sp.ThreatModel("linf", 0.3, bounds=bounds)
    assert_allowed(images, attack(careful, images, goal, threat), "linf", 0.3, bounds)


@pytest.mark.parametrize("attack", ALL, ids=str)
@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 1, 8, 8), (2, 1, 28, 28), (2, 4, 3, 17), (3, 10)], ids=str)
def test_small_grey_and_odd_pictures(attack: Attack, shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    model = Linear(images[0].numel())
    labels = model(images).argmax(1)
    evaluation = sp.evaluate(model, images, labels, LINF, attacks=[attack])
    said = any("rows and columns" in note for note in evaluation.stages[0].notes)
    assert said == (len(shape) == 2 and not isinstance(attack, NIFGSM))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_pass_is_counted(norm: str) -> None:
    """One gradient per scale and step; a look per step from the middle on until the image is met, and at the end."""
    images, model = pictures(5, 1, 8, 8), Linear(64)
    goal = sp.Untargeted(model(images).argmax(1))
    problem = problem_of(model, images, goal, sp.ThreatModel(norm, 1e-9))
    TransferFGSM(steps=4, scales=3).run(problem)
    assert problem.ledger.backwards.tolist() == [12] * 5
    assert problem.ledger.forwards.tolist() == [15] * 5
    problem = problem_of(model, images, goal, sp.ThreatModel(norm, 100))
    TransferFGSM(steps=4, scales=3).run(problem)
    assert problem.ledger.forwards.tolist() == [14] * 5
    problem = problem_of(model, images, goal, sp.ThreatModel(norm, 100))
    TransferFGSM(steps=4, scales=3, early_stop=True).run(problem)
    assert problem.ledger.forwards.tolist() == [4] * 5


def test_they_transfer_better_than_a_plain_attack(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    """To a perceptron with one hidden layer, from the convolutional net."""
    with forked_seed(3):
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    data, answers = digits()
    other = train(other, data[:1000], answers[:1000], epochs=20)
    images, labels = (part[:300] for part in digits_data)
    right = other(images).argmax(1) == labels

    def share(attack: Attack) -> float:
        found = attack(digits_net, images, sp.Untargeted(labels), sp.ThreatModel("linf", 0.2))
        with torch.no_grad():
            return float((other(found).argmax(1) != labels)[right].double().mean())

    plain = share(BIM())
    assert 0.05 < plain < 0.9
    for attack in (NIFGSM(), NIFGSM(scales=5), DIFGSM(), TransferFGSM(kernel=3)):
        assert share(attack) > plain + 0.05, attack


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel": 4},
        {"kernel": 0},
        {"diversity": 1.5},
        {"diversity": -0.1},
        {"shrink": 0},
        {"shrink": 2},
        {"scales": 0},
        {"decay": -1},
        {"step_size": -1},
        {"nesterov": 1},
    ],
    ids=str,
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(sp.SparringError, match=next(iter(wrong))):
        TransferFGSM(**wrong)  # type: ignore[arg-type]
