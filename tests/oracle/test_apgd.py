"""APGD: optimal on linear models, equal to Algorithm 1 written again, and deaf to the tricks that fool other losses."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests.helpers_core import Linear, assert_allowed, generator, pictures
from tests.oracle.test_linear import BUDGETS, OPTIMA
from torch import Tensor, nn

import sparring as sp
from sparring import losses
from sparring.attacks import APGD, PGD
from sparring.batching import Plan
from sparring.problem import Problem
from sparring.rng import Streams, digests

Net = nn.Module


def problem_of(model: Net, images: Tensor, labels: Tensor, threat: sp.ThreatModel) -> Problem:
    streams = Streams(0, "test", digests(images))
    return Problem.build(model, images, sp.Untargeted(labels), threat, streams, Plan(16, False))


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_it_reaches_the_optimum_of_a_linear_model(norm: str, box: tuple[float, float]) -> None:
    low, high = box
    images = pictures(12, 1, 2, 4, dtype=torch.float64) * (high - low) + low
    model = Linear(8, 2, dtype=torch.float64)
    labels = model(images).argmax(1)
    direction = (model.weight[1] - model.weight[0]).detach().numpy()
    for eps in BUDGETS[norm]:
        threat = sp.ThreatModel(norm, eps, bounds=box)
        found = APGD(early_stop=False, loss="margin")(model, images, sp.Untargeted(labels), threat)
        assert_allowed(images, found, norm, eps, box)
        for i in range(len(images)):
            x = images[i].flatten().numpy()
            gradient = direction if labels[i] == 0 else -direction
            won, best = gradient @ (found[i].flatten().numpy() - x), OPTIMA[norm](gradient, low - x, high - x, eps)
            assert (0.97 if norm == "l1" else 0.995) * best <= won <= best + 1e-9, (eps, i)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_it_breaks_exactly_the_images_that_can_be_broken(norm: str) -> None:
    images = pictures(40, 1, 2, 4, dtype=torch.float64)
    model = Linear(8, 2, dtype=torch.float64)
    logits = model(images).detach()
    labels, margin = logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs().numpy()
    direction = (model.weight[1] - model.weight[0]).detach().numpy()
    eps = BUDGETS[norm][1]
    signs = np.where(labels.numpy() == 0, 1, -1)
    flat = images.flatten(1).numpy()
    reach = np.array([OPTIMA[norm](s * direction, -x, 1 - x, eps) for s, x in zip(signs, flat, strict=True)])
    assert 0 < (reach > margin).sum() < len(images)
    for attack in (APGD(), APGD(loss="dlr"), APGD(targets=1)):
        found = attack(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, eps))
        assert np.array_equal((model(found).argmax(1) != labels).numpy(), reach > margin), attack


def algorithm_1(problem: Problem, start: Tensor, loss: str, steps: int, rho: float) -> Tensor:
    """APGD as the paper prints it, for one image: x_max."""
    share, period, checkpoints = 0.22, 0.22, []
    while share <= 1:
        checkpoints.append(math.ceil(round(share * steps, 6)))
        period = max(period - 0.03, 0.06)
        share += period

    def f(x: Tensor) -> tuple[float, Tensor]:
        at = problem.gradient(x, loss)
        return float(at.values), at.grad

    def step(x: Tensor, size: float, grad: Tensor) -> Tensor:
        direction = grad.sign() if problem.threat.norm == "linf" else grad / grad.norm()
        return problem.region.project(x + size * direction)

    size = 2 * problem.threat.eps
    value, grad = f(start)
    xs, values, best = [start], [value], (value, start, grad)
    sizes, bests, last_check = [], [], 0
    for k in range(steps):
        z = step(xs[-1], size, grad)
        moved = z if k == 0 else problem.region.project(xs[-1] + 0.75 * (z - xs[-1]) + 0.25 * (xs[-1] - xs[-2]))
        value, grad = f(moved)
        xs.append(moved)
        values.append(value)
        if value > best[0]:
            best = (value, moved, grad)
        if k + 1 in checkpoints:
            rises = sum(values[i + 1] > values[i] for i in range(last_check, k + 1))
            stale = bool(sizes) and sizes[-1] == size and bests[-1] == best[0]
            sizes.append(size)
            bests.append(best[0])
            if rises < rho * (k + 1 - last_check) or stale:
                size /= 2
                values[-1], xs[-1], grad = best
            last_check = k + 1
    return best[1]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.12)])
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize(("steps", "rho"), [(7, 0.75), (60, 0.75), (60, 0.1)])
def test_it_is_algorithm_1_of_the_paper(
    norm: str, eps: float, loss: str, steps: int, rho: float, digits_net: Net, digits_data: tuple[Tensor, Tensor]
) -> None:
    """Where no image falls, so that all follow the loss alone, and none is near the box, where our l2 step differs."""
    net = copy.deepcopy(digits_net).double()
    images = digits_data[0][:10].double() * 0.9 + 0.05
    images = images.clamp(0.2, 0.8)
    labels = net(images).argmax(1)
    attack = APGD(steps=steps, loss=loss, rho=rho, early_stop=False)
    whole = problem_of(net, images, labels, sp.ThreatModel(norm, eps))
    found = attack.run(whole)
    stood = ~whole.goal.is_met(whole.logits(found))
    assert stood.sum() > 5
    for i in stood.nonzero().flatten().tolist():
        one = problem_of(net, images[i : i + 1], labels[i : i + 1], whole.threat)
        expected = algorithm_1(one, one.region.sample(one.streams), loss, steps, attack.rho)
        torch.testing.assert_close(found[i], expected[0], rtol=0, atol=1e-7)


class Lottery(nn.Module):
    """Wrong only above 0.65, and flat everywhere: a quarter of the random starts in [0.2, 0.8] win."""

    def forward(self, images: Tensor) -> Tensor:
        rise = (images.flatten(1).mean(1) - 0.65).relu() * 10 - 1e-3
        return torch.stack([torch.zeros_like(rise), rise], 1)


def test_restarts_keep_each_images_best_run() -> None:
    """One restart wins for a quarter of the images; keeping the best batch of eight would hardly win for more."""
    images = 0.5 + torch.linspace(-1e-3, 1e-3, 60).view(60, 1, 1, 1)
    goal, threat = sp.Untargeted(torch.zeros(60).long()), sp.ThreatModel("linf", 0.3)
    one, eight = (
        int((Lottery()(APGD(steps=3, restarts=n)(Lottery(), images, goal, threat)).argmax(1) == 1).sum())
        for n in (1, 8)
    )
    assert 5 <= one <= 26
    assert eight >= 45


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_keeps_the_best_iterate_not_the_last(norm: str, digits_net: Net, digits_data: tuple[Tensor, Tensor]) -> None:
    """Of all points the model was asked about, none beats the one that comes back: no silent success."""
    images, labels = digits_data[0][:12], digits_data[1][:12]
    eps = {"linf": 0.06, "l2": 0.4}[norm]
    for i in range(len(images)):
        visited: list[Tensor] = []

        def spied(x: Tensor, visited: list[Tensor] = visited) -> Tensor:
            visited.append(x.detach().clone())
            return digits_net(x)

        goal = sp.Untargeted(labels[i : i + 1])
        attack = APGD(steps=9, loss="margin", early_stop=False)
        found = attack(spied, images[i : i + 1], goal, sp.ThreatModel(norm, eps))
        allowed = [x[:1] for x in visited if bool(sp.ThreatModel(norm, eps).contains(images[i : i + 1], x[:1]).all())]
        with torch.no_grad():
            best = losses.margin(digits_net(torch.cat(allowed)), sp.Untargeted(labels[i].repeat(len(allowed)))).max()
            assert losses.margin(digits_net(found), goal) >= best - 1e-5


def fooled(model: object, images: Tensor, labels: Tensor, attack: APGD | PGD, eps: float = 0.08) -> Tensor:
    found = attack(model, images, sp.Untargeted(labels), sp.ThreatModel("linf", eps))
    with torch.no_grad():
        return model(found).argmax(1) != labels  # type: ignore[operator]


@pytest.mark.parametrize("attack", [APGD(steps=10), APGD(steps=10, loss="dlr"), APGD(steps=6, loss="dlr", targets=3)])
@pytest.mark.parametrize("shift", [-100.0, 1000.0])
def test_a_constant_added_to_all_logits_changes_no_verdict(
    attack: APGD, shift: float, digits_net: Net, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits_data[0][:80].double(), digits_data[1][:80]
    net = copy.deepcopy(digits_net).double()
    plain = fooled(net, images, labels, attack)
    assert torch.equal(plain, fooled(lambda x: net(x) + shift, images, labels, attack))
    assert 0.05 < plain.double().mean() < 0.95


def test_scaled_logits_hide_nothing_from_dlr_margin_and_targets(
    digits_net: Net, digits_data: tuple[Tensor, Tensor]
) -> None:
    """Cross-entropy underflows in float32: its gradient is exactly zero for the images that are surely right."""
    images, labels = (part[:100] for part in digits_data)

    def scaled(x: Tensor) -> Tensor:
        return 100 * digits_net(x)

    plain = fooled(digits_net, images, labels, APGD(steps=20))
    blind = fooled(scaled, images, labels, APGD(steps=20))
    assert blind.sum() < 0.7 * plain.sum(), "the trap is one"
    for attack in (APGD(steps=20, loss="dlr"), APGD(steps=20, loss="margin"), APGD(steps=20, loss="dlr", targets=3)):
        assert fooled(scaled, images, labels, attack).sum() >= 0.9 * plain.sum(), attack


def test_it_is_no_weaker_than_pgd_with_as_many_gradients(digits_net: Net, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:200] for part in digits_data)
    for eps in (0.05, 0.08, 0.12):
        many = fooled(digits_net, images, labels, APGD(steps=40), eps).sum()
        assert many >= fooled(digits_net, images, labels, PGD(steps=40, schedule="constant"), eps).sum() - 1
        aimed = fooled(digits_net, images, labels, APGD(steps=40, loss="dlr", targets=9), eps).sum()
        assert aimed >= many


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_use_fewer_targets_and_the_margin_and_say_so(classes: int) -> None:
    images, model = pictures(30, 1, 4, 4), Linear(16, classes)
    labels = model(images).argmax(1)
    evaluation = sp.evaluate(
        model, images, labels, sp.ThreatModel("linf", 0.05), attacks=[APGD(steps=10, loss="dlr", targets=9)]
    )
    (stage,) = evaluation.stages
    assert any(f"{classes - 1} wrong classes" in note for note in stage.notes)
    assert any("margin loss was used" in note for note in stage.notes) == (classes < 4)
    margin = sp.evaluate(model, images, labels, sp.ThreatModel("linf", 0.05), attacks=[APGD(steps=10, loss="margin")])
    assert 0.05 < evaluation.robust_accuracy.value <= margin.robust_accuracy.value < 0.95


def test_every_pass_is_counted() -> None:
    images, model = pictures(6, 1, 4, 4, dtype=torch.float64), Linear(16, 5, dtype=torch.float64)
    labels = model(images).argmax(1)
    for attack, runs, looks in ((APGD(steps=7), 1, 0), (APGD(steps=7, restarts=2, targets=3), 6, 1)):
        problem = problem_of(model, images, labels, sp.ThreatModel("linf", 1e-9))
        attack.run(problem)
        assert problem.ledger.backwards.tolist() == [7 * runs] * 6
        assert problem.ledger.forwards.tolist() == [8 * runs + looks] * 6


def test_nan_is_never_the_best() -> None:
    model = Linear(16)

    def holed(x: Tensor) -> Tensor:
        logits = model(x)
        return torch.where((x.flatten(1).mean(1) > 0.52)[:, None], logits * torch.nan, logits)

    images = torch.rand(20, 1, 4, 4, generator=generator(0)) * 0.2 + 0.4
    images = images[images.flatten(1).mean(1) < 0.5]
    labels = model(images).argmax(1)
    for norm, eps in (("linf", 0.2), ("l2", 1.0), ("l1", 3.0)):
        found = APGD(steps=15)(holed, images, sp.Untargeted(labels), sp.ThreatModel(norm, eps))
        assert_allowed(images, found, norm, eps)
        assert not bool(holed(found).isnan().any()), norm


def test_the_targeted_loss_leaves_the_label(digits_net: Net, digits_data: tuple[Tensor, Tensor]) -> None:
    """Equation 6 compares the target with the label, not with the strongest other class."""
    images, labels = (part[:5] for part in digits_data)
    problem = problem_of(digits_net, images, labels, sp.ThreatModel("linf", 0.1))
    targets = (labels + 1) % 10
    logits = problem.logits(images)
    top, rows = logits.sort(descending=True).values, torch.arange(5)
    expected = (logits[rows, targets] - logits[rows, labels]) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)
    torch.testing.assert_close(problem.aiming(targets).loss_values(logits, losses.dlr), expected)
