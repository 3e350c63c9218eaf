"""Carlini-Wagner, EAD and JSMA: linear models whose nearest adversarials are known, and the traps they fall into."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tests.helpers_core import Linear, assert_allowed, generator, measured, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import EAD, JSMA, CarliniWagner, parse
from sparring.attacks.jsma import _best_pair
from sparring.errors import InputError

BOXES = [(0.0, 1.0), (-1.0, 1.0)]
CW = CarliniWagner(steps=50)
MINIMAL = [(CW, "l2"), (CW, "linf"), (CW, "l0"), (EAD(steps=50), "l1")]
IDS = ["cw-l2", "cw-linf", "cw-l0", "ead-l1"]
minimal = pytest.mark.parametrize(("attack", "norm"), MINIMAL, ids=IDS)


def nearest(slope: np.ndarray, needed: float, lo: np.ndarray, hi: np.ndarray, norm: str) -> float:
    """The smallest ‖δ‖ with slope·δ >= needed and lo <= δ <= hi, or infinity."""
    reach = np.where(slope > 0, hi, -lo)
    gain = np.abs(slope) * reach
    if gain.sum() < needed:
        return np.inf
    if norm == "l0":
        return float(np.searchsorted(np.sort(gain)[::-1].cumsum(), needed) + 1)
    if norm == "l1":
        d = len(slope)
        solved = linprog(
            np.ones(2 * d),
            A_ub=[np.r_[-slope, slope]],
            b_ub=[-needed],
            bounds=[*zip(0 * hi, hi, strict=True), *zip(0 * lo, -lo, strict=True)],
        )
        return float(solved.fun)
    low, high = 0.0, 1e6  # bisection on the length t of min(t·direction, room)
    direction = np.ones_like(slope) if norm == "linf" else np.abs(slope)
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if np.abs(slope) @ np.minimum(t * direction, reach) < needed else (low, t)
    moved = np.minimum(high * direction, reach)
    return float(moved.max() if norm == "linf" else np.linalg.norm(moved))


def binary(dtype: torch.dtype = torch.float64) -> tuple[Tensor, nn.Module, Tensor]:
    images = pictures(20, 1, 3, 4, dtype=dtype)
    model = Linear(12, 2, dtype=dtype)
    return images, model, model(images).argmax(1)


@minimal
@pytest.mark.parametrize("box", BOXES, ids=str)
def test_the_nearest_adversarial_of_a_linear_model(
    attack: CarliniWagner | EAD, norm: str, box: tuple[float, float]
) -> None:
    low, high = box
    images = pictures(20, 1, 3, 4, dtype=torch.float64) * (high - low) + low
    model = Linear(12, 2, dtype=torch.float64)
    logits = model(images).detach()
    labels = logits.argmax(1)
    attack = dataclasses.replace(attack, steps=100)
    found = attack.minimize(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, 1, bounds=box))
    assert_allowed(images, found, norm, 12 * (high - low), box)
    spent, fooled = measured(found - images, norm), (model(found).argmax(1) != labels).tolist()
    direction = (model.weight[1] - model.weight[0]).detach().numpy()
    for i, x in enumerate(images.flatten(1).numpy()):
        slope = direction if labels[i] == 0 else -direction
        best = nearest(slope, float((logits[i, 0] - logits[i, 1]).abs()), low - x, high - x, norm)
        assert fooled[i] == np.isfinite(best), i
        if fooled[i]:
            assert best - 1e-9 <= spent[i] <= (best + 0.1 if norm == "l0" else best * 1.02), (i, spent[i], best)


@minimal
def test_targets_are_reached_and_nearer_ones_are_nearer(
    attack: CarliniWagner | EAD, norm: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:20] for part in digits_data)
    threat = sp.ThreatModel(norm, 1)
    spent = {}
    for how in ("runner-up", "least-likely"):
        targets = sp.choose_targets(digits_net, images, labels, how)
        found = attack.minimize(digits_net, images, sp.Targeted(targets), threat)
        assert bool((digits_net(found).argmax(1) == targets).all()), how
        spent[how] = np.median(measured(found - images, norm))
    free = attack.minimize(digits_net, images, sp.Untargeted(labels), threat)
    assert np.median(measured(free - images, norm)) <= spent["runner-up"] * 1.05 < spent["least-likely"]


ALL = [*MINIMAL, (JSMA(), "l0"), (JSMA(rule="pairs"), "l0")]
every = pytest.mark.parametrize(("attack", "norm"), ALL, ids=[*IDS, "jsma", "jsma-pairs"])


def distances(
    attack: CarliniWagner | EAD | JSMA, norm: str, model: object, images: Tensor, labels: Tensor
) -> np.ndarray:
    """Distance of every adversarial, infinite where there is none."""
    threat, goal = sp.ThreatModel(norm, images[0].numel()), sp.Untargeted(labels)
    found = (
        attack(model, images, goal, threat)
        if isinstance(attack, JSMA)
        else attack.minimize(model, images, goal, threat)
    )  # type: ignore[arg-type]
    fooled = (model(found).argmax(1) != labels).numpy()  # type: ignore[operator]
    return np.where(fooled, measured(found - images, norm), np.inf)


@every
def test_a_constant_on_all_logits_changes_nothing(
    attack: CarliniWagner | EAD | JSMA, norm: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    """A hinge written with max((1 - onehot)·logits) finds nothing once every logit is negative."""
    images, labels = digits_data[0][:30].double(), digits_data[1][:30]
    net = type(digits_net)(*digits_net).double()
    plain = distances(attack, norm, net, images, labels)
    shifted = distances(attack, norm, lambda x: net(x) - 100, images, labels)
    net.float()
    assert np.isfinite(plain).all()
    assert np.isfinite(shifted).all()
    np.testing.assert_allclose(np.median(shifted), np.median(plain), rtol=0.01)


@minimal
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_logits_does_not_matter(
    attack: CarliniWagner | EAD, norm: str, scale: float, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    """A fixed first c suits one scale: the search for another one then eats the budget."""
    images, labels = (part[:30] for part in digits_data)
    plain = distances(attack, norm, digits_net, images, labels)
    scaled = distances(attack, norm, lambda x: digits_net(x) * scale, images, labels)
    assert np.isfinite(scaled).all()
    assert np.median(scaled) <= np.median(plain) * 1.05


@minimal
def test_pixels_at_the_ends_of_the_box_move(attack: CarliniWagner | EAD, norm: str) -> None:
    """All pixels are exactly 0 or 1: under a tanh none of them would move, and there would be no adversarial."""
    images = (torch.rand(12, 1, 4, 4, generator=generator(4), dtype=torch.float64) < 0.5).double()
    model = Linear(16, 3, dtype=torch.float64)
    labels = model(images).argmax(1)
    spent = distances(attack, norm, model, images, labels)
    inner = distances(attack, norm, model, images.clamp(1e-4, 1 - 1e-4), model(images.clamp(1e-4, 1 - 1e-4)).argmax(1))
    assert np.isfinite(spent).all()
    assert np.median(spent) <= np.median(inner) * 1.02 + 1e-3


def test_confidence_is_reached_and_costs_distance(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:40] for part in digits_data)
    spent = []
    for confidence in (0.0, 2.0):
        found = CarliniWagner(confidence=confidence).minimize(
            digits_net, images, sp.Untargeted(labels), sp.ThreatModel("l2", 1)
        )
        logits = digits_net(found).detach()
        own = logits.gather(1, labels[:, None]).squeeze(1)
        lead = logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own
        assert bool((lead >= confidence).all())
        spent.append(np.median(measured(found - images, "l2")))
    assert spent[1] > spent[0] * 1.05


def test_without_the_wanted_confidence_any_adversarial_is_better_than_none() -> None:
    images, model, labels = binary()
    found = CarliniWagner(confidence=1e6).minimize(model, images, sp.Untargeted(labels), sp.ThreatModel("l2", 1))
    assert bool((model(found).argmax(1) != labels).all())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_rounding_to_8_bits_undoes_the_nearest_and_not_the_confident(
    norm: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:60] for part in digits_data)
    survive = []
    for confidence in (0.0, 2.0):
        attack = CarliniWagner(steps=40, confidence=confidence)
        found = attack.minimize(digits_net, images, sp.Untargeted(labels), sp.ThreatModel(norm, 1))
        rounded = (found * 255).round() / 255
        survive.append(float((digits_net(rounded).argmax(1) != labels).double().mean()))
    assert survive[0] < 0.95
    assert survive[1] > 0.97


@every
def test_the_size_of_the_batch_does_not_matter(attack: CarliniWagner | EAD | JSMA, norm: str) -> None:
    images, labels = pictures(8, 1, 4, 4, dtype=torch.float64), torch.arange(8) % 3
    model = Linear(16, 3, dtype=torch.float64)
    labels = model(images).argmax(1)
    threat = sp.ThreatModel(norm, 3)
    whole = attack(model, images, sp.Untargeted(labels), threat)
    for size in (1, 3):
        parts = [
            attack(model, x, sp.Untargeted(y), threat)
            for x, y in zip(images.split(size), labels.split(size), strict=True)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-9)


@minimal
def test_as_budget_attacks_they_stop_inside_the_budget(attack: CarliniWagner | EAD, norm: str) -> None:
    """An image leaves at its first adversarial inside eps: far fewer gradients than a search for the nearest."""
    images, model, labels = binary(torch.float32)
    reach = {"l2": 1.5, "linf": 0.5, "l0": 8, "l1": 5.0}[norm]
    calls = [0, 0]

    def counted(x: Tensor) -> Tensor:
        calls[-1] += 1
        return model(x)

    attack.minimize(counted, images, sp.Untargeted(labels), sp.ThreatModel(norm, 1))
    calls.append(0)
    found = attack(counted, images, sp.Untargeted(labels), sp.ThreatModel(norm, reach))
    assert_allowed(images, found, norm, reach)
    assert calls[-1] < calls[-2] / 3
    shortest = distances(attack, norm, model, images, labels)
    assert bool((model(found).argmax(1) != labels)[torch.from_numpy(shortest <= reach * 0.98)].all())


def test_ead_rules(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    """Each rule is the better one in what it measures."""
    images, labels = (part[:40] for part in digits_data)
    cost = {}
    for rule in ("L1", "EN"):
        attack = EAD(beta=0.1, rule=rule, steps=50)
        delta = attack.minimize(digits_net, images, sp.Untargeted(labels), sp.ThreatModel("l1", 1)) - images
        l1, l2 = measured(delta, "l1"), measured(delta, "l2")
        cost[rule] = (l1.mean(), (0.1 * l1 + l2**2).mean())
    assert cost["L1"][0] < cost["EN"][0]
    assert cost["EN"][1] < cost["L1"][1]


def test_a_larger_beta_changes_fewer_pixels(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:40] for part in digits_data)
    changed = []
    for beta in (0.05, 10.0):
        found = EAD(beta=beta, steps=50).minimize(digits_net, images, sp.Untargeted(labels), sp.ThreatModel("l1", 1))
        changed.append(measured((found - images) * ((found - images).abs() > 1e-3), "l0").mean())
    assert changed[1] < changed[0]


@pytest.mark.parametrize("size", [2, 3, 6, 25])
def test_jsma_finds_the_best_pair_of_all(size: int) -> None:
    """Against all pairs, one by one; rounded slopes bring ties."""
    g = generator(size)
    for _ in range(40):
        alpha, beta = (torch.randn(5, size, generator=g).round(decimals=1) for _ in range(2))
        free = torch.rand(5, size, generator=g) < 0.8
        chosen = _best_pair(alpha, beta, free)
        for a, b, f, c in zip(alpha.tolist(), beta.tolist(), free.tolist(), chosen, strict=True):
            products = [
                (a[p] + a[q]) * (b[p] + b[q])
                for p, q in itertools.combinations(range(size), 2)
                if f[p] and f[q] and a[p] + a[q] > 0 and b[p] + b[q] > 0
            ]
            places = c.nonzero().flatten().tolist()
            if not products:
                assert places == []
                continue
            p, q = places
            assert f[p]
            assert f[q]
            assert (a[p] + a[q]) * (b[p] + b[q]) == pytest.approx(max(products), rel=1e-5)


def test_jsma_pairs_follow_the_paper_on_a_linear_model() -> None:
    """The slopes of a linear model never change, so the whole path follows from sorting the pairs by hand."""
    images = torch.full((1, 1, 2, 4), 0.25, dtype=torch.float64)
    model = Linear(8, 3, dtype=torch.float64)
    target = int(model(images).argmin(1))
    alpha = model.weight[target].detach()
    beta = model.weight.detach().sum(0) - alpha
    free, x = set(range(8)), images.flatten().clone()
    while int(model(x[None]).argmax(1)) != target:
        pairs = [
            (p, q) for p, q in itertools.combinations(sorted(free), 2) if alpha[p] + alpha[q] > 0 > beta[p] + beta[q]
        ]
        if not pairs:
            break
        p, q = max(pairs, key=lambda pair: float(-(alpha[list(pair)].sum() * beta[list(pair)].sum())))
        x[[p, q]] = 1.0
        free -= {p, q}
    found = JSMA(rule="pairs")(model, images, sp.Targeted(torch.tensor([target])), sp.ThreatModel("l0", 8))
    assert int(model(x[None]).argmax(1)) == int(model(found).argmax(1))
    torch.testing.assert_close(found.flatten(), x)


@pytest.mark.parametrize("theta", [1.0, -1.0])
def test_the_sign_of_theta_is_the_direction(
    theta: float, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:20] for part in digits_data)
    moved = (
        JSMA(rule="pairs", theta=theta)(digits_net, images, sp.Untargeted(labels), sp.ThreatModel("l0", 20)) - images
    )
    assert bool((moved * theta >= 0).all())
    assert bool((moved != 0).any())


@pytest.mark.parametrize("rule", ["maximal", "pairs"])
@pytest.mark.parametrize("theta", [1.0, 0.3])
def test_jsma_counts_features(
    rule: str, theta: float, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    """eps, gamma and the mask are kept, odd budgets included; more budget never hurts."""
    images, labels = (part[:60] for part in digits_data)
    mask = torch.rand(8, 8, generator=generator(1)) < 0.6
    broken = []
    for eps in (1, 3, 6, 16):
        threat = sp.ThreatModel("l0", eps, mask=mask)
        found = JSMA(rule=rule, theta=theta)(digits_net, images, sp.Untargeted(labels), threat)
        assert bool(threat.contains(images, found).all())
        broken.append(int((digits_net(found).argmax(1) != labels).sum()))
    assert broken == sorted(broken)
    assert broken[-1] > broken[0]
    few = JSMA(rule=rule, theta=theta, gamma=5 / 64)(
        digits_net, images, sp.Untargeted(labels), sp.ThreatModel("l0", 64)
    )
    assert measured(few - images, "l0").max() <= 5


def test_jsma_reaches_its_targets(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:40] for part in digits_data)
    targets = (labels + 1 + torch.arange(40) % 9) % 10
    spent = {}
    for rule in ("maximal", "pairs"):
        found = JSMA(rule=rule)(digits_net, images, sp.Targeted(targets), sp.ThreatModel("l0", 64))
        reached = (digits_net(found).argmax(1) == targets).numpy()
        spent[rule] = np.where(reached, measured(found - images, "l0"), np.inf)
    assert np.isfinite(spent["maximal"]).mean() > 0.9
    assert np.median(spent["maximal"]) <= np.median(spent["pairs"])


def test_the_nearest_miss_is_returned_where_nothing_is_found() -> None:
    images, model, labels = binary()
    found = JSMA()(model, images, sp.Untargeted(labels), sp.ThreatModel("l0", 1))
    rows = torch.arange(len(labels))
    before, after = (model(x)[rows, labels] - model(x)[rows, 1 - labels] for x in (images, found))
    assert bool((after < before).all())


@pytest.mark.parametrize(
    "text",
    [
        "cw:steps=0",
        "cw:search_steps=0",
        "cw:confidence=-1",
        "cw:learning_rate=-0.1",
        "ead:rule=l2",
        "ead:beta=0",
        "jsma:theta=0",
        "jsma:theta=-1",
        "jsma:theta=2",
        "jsma:gamma=1.5",
        "jsma:rule=pair",
    ],
)
def test_hyper_parameters_are_checked(text: str) -> None:
    with pytest.raises(InputError, match=text.partition(":")[2].partition("=")[0]):
        parse(text)


@every
def test_a_silent_model_breaks_nothing_and_no_attack(attack: CarliniWagner | EAD | JSMA, norm: str) -> None:
    """NaN answers on the way, and a model whose gradient is zero everywhere."""
    images, model, labels = binary(torch.float32)

    def silent(x: Tensor) -> Tensor:
        moved = (x - images[:1]).flatten(1).abs().amax(1, keepdim=True) > 0.3
        return torch.where(moved, torch.nan, model(x))

    threat = sp.ThreatModel(norm, 4)
    found = attack(silent, images[:1], sp.Untargeted(labels[:1]), threat)
    assert_allowed(images[:1], found, norm, 4)

    def flat(x: Tensor) -> Tensor:
        return model(images[: len(x)]).detach() + 0 * x.flatten(1).sum(1, keepdim=True)

    assert torch.equal(attack(flat, images, sp.Untargeted(labels), threat), images)
