"""Minimal-norm attacks where the least distance is known: linear models in closed form, small ReLU nets by a solver.

The box clips in every test but the first: the images touch its sides.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from tests.helpers_core import Linear, digits, forked_seed, generator, measured, pictures, train
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import ATTACKS, DDN, FAB, FMN, DeepFool
from sparring.attacks.minimal import MinimalAttack

EVERY = [kind for kind in ATTACKS.values() if issubclass(kind, MinimalAttack)]
EXACT = [
    (FAB(), "linf", 1.005, 1.02),
    (FAB(), "l2", 1.005, 1.02),
    (FAB(), "l1", 1.005, 1.03),
    (FMN(), "linf", 1.002, 1.01),
    (FMN(), "l2", 1.002, 1.01),
    (FMN(), "l1", 1.03, 1.06),
    (FMN(), "l0", 1.0, 1.5),
    (DDN(), "l2", 1.002, 1.01),
    (DeepFool(), "l2", 1.003, 1.01),
    (DeepFool(), "linf", 1.003, 1.01),
]
"""Attack, norm, and how much farther than the least distance its median and its worst find may be on a binary model."""
CASES = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in EXACT]
UNBOXED = [case for case in CASES if "l0" not in str(case.id)]


def assert_near(ratio: np.ndarray, attack: MinimalAttack, norm: str, median: float, worst: float, classes: int) -> None:
    """`ratio`: distance found over least distance. With several classes DDN and FMN may follow one that is not the
    nearest, and DDN's cross-entropy heads for a mixture of them; in l1 the box decides which is nearest, and FAB
    chooses as if it only closed the coordinates that are at their bound already.
    """
    assert ratio.min() > 1 - 1e-9, "nothing is nearer than the least distance"
    several = classes > 2 and (isinstance(attack, (DDN, FMN)) or norm == "l1")
    assert np.median(ratio) <= (max(median, 1.05) if several else median)
    assert ratio.max() <= (1.6 if several else worst)


def rising(gain: np.ndarray, need: float, slope: np.ndarray) -> float:
    """The t with slope·gain(t) = need, by bisection; `gain` maps t to the clipped perturbation."""
    low, high = 0.0, 1.0
    while slope @ gain(high) < need and high < 1e9:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope @ gain(middle) < need else (low, middle)
    return high


def least(slope: np.ndarray, need: float, norm: str, lo: np.ndarray, hi: np.ndarray) -> float:
    """Length of the shortest delta in the box with slope·delta >= need; infinite where the box does not allow it."""
    weight, room = np.abs(slope), np.where(slope > 0, hi, -lo)
    if weight @ room < need:
        return np.inf
    if norm in ("linf", "l2"):
        speed = np.ones_like(weight) if norm == "linf" else weight

        def moved(t: float) -> np.ndarray:
            return np.minimum(t * speed, room)

        return float(np.linalg.norm(moved(rising(moved, need, weight)), np.inf if norm == "linf" else 2))
    order = np.argsort(-(weight if norm == "l1" else weight * room))
    won = np.cumsum((weight * room)[order])
    last = int(np.searchsorted(won, need))
    if norm == "l0":
        return last + 1.0
    before = won[last - 1] if last else 0.0
    return float(room[order][:last].sum() + (need - before) / weight[order[last]])


def least_of_all(model: Linear, images: Tensor, labels: Tensor, norm: str, box: tuple[float, float]) -> np.ndarray:
    """The least distance to any other class, per image: the least of the distances to the half-spaces."""
    w, logits = model.weight.detach().double().numpy(), model(images).detach().double().numpy()
    result = []
    for x, z, y in zip(images.flatten(1).double().numpy(), logits, labels.tolist(), strict=True):
        others = [k for k in range(len(z)) if k != y]
        result.append(min(least(w[k] - w[y], z[y] - z[k], norm, box[0] - x, box[1] - x) for k in others))
    return np.array(result)


def found_by(attack: MinimalAttack, model: nn.Module, images: Tensor, labels: Tensor, threat: sp.ThreatModel) -> Tensor:
    found = attack.minimize(model, images, sp.Untargeted(labels), threat)
    assert bool((model(found).argmax(1) != labels).all()), "every image is fooled"
    return measured(found.double() - images.double(), threat.norm)


@pytest.mark.parametrize(("attack", "norm", "median", "worst"), UNBOXED)
@pytest.mark.parametrize("classes", [2, 5])
def test_far_from_the_box_the_distance_is_the_margin_over_the_dual_norm(
    attack: MinimalAttack, norm: str, median: float, worst: float, classes: int
) -> None:
    images = torch.randn(30, 1, 5, 5, generator=generator(2), dtype=torch.float64)
    model = Linear(25, classes, dtype=torch.float64)
    logits = model(images).detach()
    labels = logits.argmax(1)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    w = model.weight.detach().numpy()
    exact = [
        min((z[y] - z[k]) / np.linalg.norm(w[k] - w[y], dual) for k in range(classes) if k != y)
        for z, y in zip(logits.numpy(), labels.tolist(), strict=True)
    ]
    ratio = found_by(attack, model, images, labels, sp.ThreatModel(norm, 1, bounds=(-1000, 1000))) / exact
    assert_near(ratio, attack, norm, median, worst, classes)


@pytest.mark.parametrize(("attack", "norm", "median", "worst"), CASES)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
def test_inside_the_box_the_distance_is_that_of_the_nearest_reachable_half_space(
    attack: MinimalAttack, norm: str, median: float, worst: float, classes: int, box: tuple[float, float]
) -> None:
    low, high = box
    images = pictures(30, 1, 6, 6, dtype=torch.float64) * (high - low) + low
    model = Linear(36, classes, dtype=torch.float64)
    labels = model(images).argmax(1)
    exact = least_of_all(model, images, labels, norm, box)
    ratio = found_by(attack, model, images, labels, sp.ThreatModel(norm, 1, bounds=box)) / exact
    assert_near(ratio, attack, norm, median, worst, classes)


@pytest.mark.parametrize(("attack", "norm", "median", "worst"), CASES)
def test_a_mask_is_a_box_that_is_closed(attack: MinimalAttack, norm: str, median: float, worst: float) -> None:
    images = pictures(30, 1, 6, 6, dtype=torch.float64)
    model = Linear(36, 3, dtype=torch.float64)
    labels = model(images).argmax(1)
    mask = torch.rand(1, 6, 6, generator=generator(5)) < 0.6
    open_ = mask.flatten().numpy()
    w, logits = model.weight.detach().numpy(), model(images).detach().numpy()
    exact = np.array(
        [
            min(least((w[k] - w[y])[open_], z[y] - z[k], norm, -x[open_], 1 - x[open_]) for k in range(3) if k != y)
            for x, z, y in zip(images.flatten(1).numpy(), logits, labels.tolist(), strict=True)
        ]
    )
    within = torch.from_numpy(np.isfinite(exact))
    assert int(within.sum()) > 20
    threat = sp.ThreatModel(norm, 1, mask=mask)
    ratio = found_by(attack, model, images[within], labels[within], threat) / exact[np.isfinite(exact)]
    assert_near(ratio, attack, norm, median, worst, 3)


@pytest.mark.parametrize(("attack", "norm"), [(case[0], case[1]) for case in EXACT], ids=str)
def test_a_target_lies_no_nearer_than_its_half_spaces(attack: MinimalAttack, norm: str) -> None:
    images = pictures(20, 1, 6, 6, dtype=torch.float64)
    model = Linear(36, 4, dtype=torch.float64)
    labels = model(images).argmax(1)
    targets = (labels + 1) % 4
    found = attack.minimize(model, images, sp.Targeted(targets), sp.ThreatModel(norm, 1))
    reached = (model(found).argmax(1) == targets).numpy()
    assert reached.mean() >= 0.9
    w, logits = model.weight.detach().numpy(), model(images).detach().numpy()
    bound = np.array(
        [
            max(least(w[t] - w[k], z[k] - z[t], norm, -x, 1 - x) for k in range(4) if k != t and z[k] > z[t])
            for x, z, t in zip(images.flatten(1).numpy(), logits, targets.tolist(), strict=True)
        ]
    )
    ratio = measured(found - images, norm)[reached] / bound[reached]
    assert ratio.min() > 1 - 1e-9
    assert np.median(ratio) < (2.0 if isinstance(attack, DeepFool) else 1.5)


# --- small ReLU nets: the least distance by mixed-integer programming -------


@functools.cache
def tiny_net() -> tuple[nn.Sequential, Tensor, Tensor]:
    """64 pixels, 8 hidden units, 10 digits; with the images that it gets right."""
    images, labels = digits()
    with forked_seed(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    net = train(net, images[:1000], labels[:1000], epochs=25).double()
    right = (net(images.double()).argmax(1) == labels).nonzero().flatten()[-6:]
    return net, images[right].double(), labels[right]


@functools.cache
def exact_distances(norm: str) -> np.ndarray:
    net, images, labels = tiny_net()
    pairs = zip(images.flatten(1).numpy(), labels.tolist(), strict=True)
    return np.array([min(exact(net, x, y, k, norm) for k in range(10) if k != y) for x, y in pairs])


def exact(net: nn.Sequential, x: np.ndarray, label: int, rival: int, norm: str) -> float:
    """The least linf or l1 distance, or number of changes, at which z_rival >= z_label.

    Variables: delta (64), size (64, or 1 for linf), hidden units h (8), whether each is on (8, binary).
    """
    (w1, b1), (w2, b2) = ((net[i].weight.detach().numpy(), net[i].bias.detach().numpy()) for i in (1, 3))
    d, h = len(x), len(b1)
    sizes = 1 if norm == "linf" else d
    centre = w1 @ x + b1
    reach = np.where(w1 > 0, w1 * (1 - x), -w1 * x).sum(1), np.where(w1 > 0, -w1 * x, w1 * (1 - x)).sum(1)
    top, bottom = centre + reach[0], centre + reach[1]
    spread = np.ones((d, 1)) if norm == "linf" else np.eye(d)
    nothing = np.zeros
    eye, on = np.eye(h), np.eye(h)
    rows = [
        (np.c_[np.eye(d), -spread, nothing((d, 2 * h))], -np.inf, 0),  # delta <= size
        (np.c_[-np.eye(d), -spread, nothing((d, 2 * h))], -np.inf, 0),
        (np.c_[-w1, nothing((h, sizes)), eye, nothing((h, h))], centre, np.inf),  # h >= what comes in
        (np.c_[-w1, nothing((h, sizes)), eye, -on * bottom], -np.inf, centre - bottom),  # and equal to it when on
        (np.c_[nothing((h, d + sizes)), eye, -on * np.maximum(top, 0)], -np.inf, 0),  # 0 when off
        (np.r_[nothing(d + sizes), w2[rival] - w2[label], nothing(h)][None], b2[label] - b2[rival], np.inf),
    ]
    whole = np.r_[nothing(d), np.full(sizes, float(norm == "l0")), nothing(h), np.ones(h)]
    found = milp(
        np.r_[nothing(d), np.ones(sizes), nothing(2 * h)],
        integrality=whole,
        bounds=Bounds(np.r_[-x, nothing(sizes + 2 * h)], np.r_[1 - x, np.ones(sizes), np.maximum(top, 0), np.ones(h)]),
        constraints=[LinearConstraint(*row) for row in rows],
        options={"time_limit": 20, "mip_rel_gap": 0.0},
    )
    return float(found.fun) if found.status == 0 else np.inf


def cheap(kind: type[MinimalAttack]) -> MinimalAttack:
    few = {"steps": 60 if kind in (DDN, FMN, FAB, DeepFool) else 15, "search_steps": 3, "restarts": 1}
    return kind(**{name: value for name, value in few.items() if name in kind.__dataclass_fields__})


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_attack_comes_nearer_than_the_exact_minimum_of_a_small_net(kind: type[MinimalAttack], norm: str) -> None:
    attack = cheap(kind)
    if norm not in attack.threats:
        pytest.skip(f"{kind.__name__} does not work in {norm}")
    net, images, labels = tiny_net()
    found = attack.minimize(net, images, sp.Untargeted(labels), sp.ThreatModel(norm, 1))
    fooled = (net(found).argmax(1) != labels).numpy()
    ratio = (measured(found - images, norm) / exact_distances(norm))[fooled]
    assert fooled.any()
    assert ratio.min() > 1 - 1e-6
    if kind in (FMN, FAB):
        assert fooled.all()
        assert np.median(ratio) < 1.1
    if kind is DeepFool:
        assert fooled.all()
        assert np.median(ratio) < 1.6
