"""Linear models, where the best perturbation is known without any attack."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tests.helpers_core import Linear, generator, measured, pictures
from torch import Tensor

import sparring as sp
from sparring.attacks import BIM, FGSM, PGD

BOXES = [(0.0, 1.0), (-1.0, 1.0)]


def optimum_linf(gradient: np.ndarray, lo: np.ndarray, hi: np.ndarray, eps: float) -> float:
    reach = np.where(gradient > 0, np.minimum(hi, eps), np.minimum(-lo, eps))
    return float((np.abs(gradient) * reach).sum())


def optimum_l2(gradient: np.ndarray, lo: np.ndarray, hi: np.ndarray, eps: float) -> float:
    """Clip(t·gradient) to the box with ‖·‖₂ = eps: t by bisection."""
    low, high = 0.0, 1e12
    for _ in range(200):
        t = np.sqrt(max(low, 1e-12) * high)
        low, high = (t, high) if np.linalg.norm(np.clip(t * gradient, lo, hi)) < eps else (low, t)
    return float(gradient @ np.clip(low * gradient, lo, hi))


def optimum_l1(gradient: np.ndarray, lo: np.ndarray, hi: np.ndarray, eps: float) -> float:
    """A linear programme in delta = p - q."""
    d = len(gradient)
    bounds = [(0, h) for h in hi] + [(0, -x) for x in lo]
    solved = linprog(np.r_[-gradient, gradient], A_ub=np.ones((1, 2 * d)), b_ub=[eps], bounds=bounds)
    assert solved.status == 0
    return float(-solved.fun)


def optimum_l0(gradient: np.ndarray, lo: np.ndarray, hi: np.ndarray, eps: float) -> float:
    gain = np.maximum(gradient * hi, gradient * lo)
    count = min(int(eps), len(gradient))
    return max(sum(gain[list(chosen)]) for chosen in itertools.combinations(range(len(gradient)), count))


OPTIMA = {"linf": optimum_linf, "l2": optimum_l2, "l1": optimum_l1, "l0": optimum_l0}
BUDGETS = {"linf": (0.01, 0.1, 0.7), "l2": (0.05, 0.4, 1.5), "l1": (0.05, 0.8, 4.0), "l0": (1, 3, 6)}


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("norm", list(OPTIMA))
def test_fgsm_is_optimal_on_a_binary_linear_model(norm: str, box: tuple[float, float]) -> None:
    low, high = box
    images = pictures(12, 1, 2, 4, dtype=torch.float64) * (high - low) + low
    model = Linear(8, 2, dtype=torch.float64)
    labels = model(images).argmax(1)
    direction = (model.weight[1] - model.weight[0]).detach().numpy()
    for eps in BUDGETS[norm]:
        found = FGSM()(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, eps, bounds=box))
        for i in range(len(images)):
            x = images[i].flatten().numpy()
            gradient = direction if labels[i] == 0 else -direction
            won = gradient @ (found[i].flatten().numpy() - x)
            best = OPTIMA[norm](gradient, low - x, high - x, eps)
            assert won == pytest.approx(best, abs=1e-7), (norm, eps, i)


@pytest.mark.parametrize("norm", list(OPTIMA))
def test_fgsm_is_optimal_for_the_gradient_of_a_multiclass_linear_model(norm: str) -> None:
    images = pictures(8, 1, 2, 4, dtype=torch.float64)
    model = Linear(8, 5, dtype=torch.float64)
    labels = model(images).argmax(1)
    points = images.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(points), labels, reduction="sum").backward()
    for eps in BUDGETS[norm]:
        found = FGSM()(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, eps))
        for i in range(len(images)):
            x, gradient = images[i].flatten().numpy(), points.grad[i].flatten().numpy()
            won = gradient @ (found[i].flatten().numpy() - x)
            assert won == pytest.approx(OPTIMA[norm](gradient, -x, 1 - x, eps), abs=1e-7), (norm, eps, i)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_error_rate_without_clipping_is_the_share_of_small_margins(norm: str) -> None:
    """P(margin ≤ eps·‖w‖_dual) for images so far inside the box that it never clips."""
    images = torch.randn(400, 1, 5, 5, generator=generator(2), dtype=torch.float64)
    model = Linear(25, 2, dtype=torch.float64)
    logits = model(images).detach()
    labels, margin = logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs().numpy()
    w = (model.weight[0] - model.weight[1]).detach().numpy()
    dual = {"linf": np.abs(w).sum(), "l2": np.linalg.norm(w), "l1": np.abs(w).max()}[norm]
    for quantile in (0.2, 0.5, 0.9):
        eps = float(np.quantile(margin, quantile) / dual)
        found = FGSM()(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, eps, bounds=(-1000, 1000)))
        wrong = (model(found).argmax(1) != labels).numpy()
        assert np.array_equal(wrong, margin <= eps * dual)
        assert measured(found - images, norm).max() <= eps * (1 + 1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_fgsm_breaks_exactly_the_images_that_can_be_broken(norm: str) -> None:
    images = pictures(40, 1, 2, 4, dtype=torch.float64)
    model = Linear(8, 2, dtype=torch.float64)
    logits = model(images).detach()
    labels, margin = logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs().numpy()
    direction = (model.weight[1] - model.weight[0]).detach().numpy()
    eps = {"linf": 0.1, "l2": 0.4, "l1": 0.6, "l0": 1}[norm]
    threat = sp.ThreatModel(norm, eps)
    reach = np.array(
        [
            OPTIMA[norm](direction if labels[i] == 0 else -direction, -x, 1 - x, eps)
            for i, x in enumerate(images.flatten(1).numpy())
        ]
    )
    expected = reach > margin
    assert 0 < expected.sum() < len(images)
    for attack in (FGSM(), FGSM(loss="margin")):
        found = attack(model, images, sp.Untargeted(labels), threat)
        assert np.array_equal((model(found).argmax(1) != labels).numpy(), expected), attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_iterative_attacks_reach_the_optimum_of_a_linear_model(norm: str) -> None:
    images = pictures(20, 1, 2, 4, dtype=torch.float64)
    model = Linear(8, 2, dtype=torch.float64)
    labels = model(images).argmax(1)
    direction = (model.weight[1] - model.weight[0]).detach().numpy()
    eps = BUDGETS[norm][1]
    for attack in (BIM(steps=60, early_stop=False), PGD(steps=100, early_stop=False, loss="margin")):
        found = attack(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, eps))
        for i in range(len(images)):
            x = images[i].flatten().numpy()
            gradient = direction if labels[i] == 0 else -direction
            best = OPTIMA[norm](gradient, -x, 1 - x, eps)
            assert gradient @ (found[i].flatten().numpy() - x) >= best * 0.95, (attack, i)


def attack_share(model: object, images: Tensor, labels: Tensor, attack: FGSM | PGD) -> Tensor:
    found = attack(model, images, sp.Untargeted(labels), sp.ThreatModel("linf", 0.08))
    return model(found).argmax(1) != labels  # type: ignore[operator]


@pytest.mark.parametrize("loss", ["margin", "cross_entropy", "dlr"])
@pytest.mark.parametrize("shift", [-100.0, 1000.0])
def test_a_constant_added_to_all_logits_changes_no_verdict(
    loss: str, shift: float, digits_net: torch.nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits_data[0][:150].double(), digits_data[1][:150]
    import copy

    net = copy.deepcopy(digits_net).double()
    for attack in (FGSM(loss=loss), PGD(steps=10, loss=loss)):
        plain = attack_share(net, images, labels, attack)
        assert torch.equal(plain, attack_share(lambda x: net(x) + shift, images, labels, attack)), attack
        assert 0.05 < plain.double().mean() < 0.95


def test_logits_times_a_hundred_hide_nothing_from_the_margin(
    digits_net: torch.nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:150] for part in digits_data)
    for attack in (FGSM(loss="margin"), PGD(steps=10, loss="margin"), PGD(steps=10, loss="dlr")):
        plain = attack_share(digits_net, images, labels, attack)
        scaled = attack_share(lambda x: 100 * digits_net(x), images, labels, attack)
        assert int((plain & ~scaled).sum()) == 0, attack
