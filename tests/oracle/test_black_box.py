"""Attacks that see only logits or only labels, where the answer is known: linear models, exact bills, other libraries'
mistakes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.helpers_core import Linear, generator, measured, pictures
from tests.oracle.test_linear import OPTIMA
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import ATTACKS, NES, SPSA, Attack, Boundary, HopSkipJump, RandomNoise, RandomSearch, SimBA, Square
from sparring.attacks.base import opened
from sparring.attacks.decisions import DecisionAttack
from sparring.attacks.finite_differences import estimate
from sparring.attacks.spsa import _signs
from sparring.attacks.square import _repainted, _stripes
from sparring.attacks.windows import Canvas, bump
from sparring.rng import Streams

WITH_QUERIES = {
    name: kind for name, kind in ATTACKS.items() if any(f.name == "queries" for f in dataclasses.fields(kind))
}


class Counted(nn.Module):
    """Counts the images it is shown, by their first pixel, which stands for the image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.inner(images)


def binary(size: int, seed: int = 0) -> tuple[Linear, np.ndarray]:
    """A linear model of two classes and the direction from class 0 to class 1."""
    model = Linear(size, 2, seed, dtype=torch.float64)
    return model, (model.weight[1] - model.weight[0]).detach().numpy()


# --- the bill --------------------------------------------------------------


@pytest.mark.parametrize("name", list(WITH_QUERIES))
@pytest.mark.parametrize("queries", [3, 4, 11, 130])
def test_no_image_is_asked_about_more_often_than_allowed(name: str, queries: int) -> None:
    kind = WITH_QUERIES[name]
    images = pictures(6, 1, 5, 5)
    model = Counted(Linear(25))
    labels = model(images).argmax(1)
    for norm in kind.threats:
        for eps in (0.0, 0.02 if norm == "linf" else 1):
            attack, threat = kind(queries=queries), sp.ThreatModel(norm, eps)
            with opened(attack, model, images, sp.Untargeted(labels), threat, None) as problem:
                model.seen = 0
                attack.run(problem)
            forwards = problem.ledger.forwards
            assert int(forwards.max()) <= queries, norm
            assert int(forwards.sum()) == model.seen, "every call is on the bill, and nothing else"
            assert int(problem.ledger.backwards.sum()) == 0


@pytest.mark.parametrize("name", list(WITH_QUERIES))
def test_the_whole_allowance_is_spent_on_what_does_not_fall(name: str) -> None:
    """A model that always gives the same answer, and one image for which that is what is wanted."""
    kind = WITH_QUERIES[name]
    images = pictures(4, 1, 4, 4) * 0.5

    def model(x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1)
        return torch.stack([bright + 10, -bright], 1)

    attack = kind(queries=120, samples=20) if "samples" in kind.__dataclass_fields__ else kind(queries=120)
    goal = sp.Untargeted(torch.tensor([0, 0, 1, 0]))
    with opened(attack, model, images, goal, sp.ThreatModel(kind.threats[0], 0.1), None) as problem:
        attack.run(problem)
    forwards = problem.ledger.forwards
    assert forwards[2] <= 52, "solved from the start"
    assert bool((forwards[[0, 1, 3]] > 100).all())


@pytest.mark.parametrize("restarts", [1, 3, 7])
def test_restarts_share_the_queries(restarts: int) -> None:
    images, model = pictures(3, 1, 5, 5), Linear(25)
    goal = sp.Untargeted(model(images).argmax(1))
    with opened(Square(), model, images, goal, sp.ThreatModel("linf", 0.001), None) as problem:
        Square(queries=50, restarts=restarts).run(problem)
    assert problem.ledger.forwards.tolist() == [50] * 3


# --- closed forms ----------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_decision_attacks_find_the_distance_to_a_hyperplane(kind: type[DecisionAttack], norm: str) -> None:
    if norm not in kind.threats:
        pytest.skip("another norm")
    images = torch.randn(8, 1, 3, 4, generator=generator(1), dtype=torch.float64)
    model, direction = binary(12)
    logits = model(images).detach()
    labels = logits.argmax(1)
    dual = {"l2": np.linalg.norm(direction), "linf": np.abs(direction).sum()}[norm]
    exact = (logits[:, 0] - logits[:, 1]).abs().numpy() / dual
    found = kind(queries=2500).minimize(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, 1, bounds=(-9, 9)))
    assert bool((model(found).argmax(1) != labels).all())
    ratio = measured(found - images, norm) / exact
    assert ratio.min() >= 1 - 1e-9, "nothing is nearer than the hyperplane"
    assert np.median(ratio) <= 1.03
    assert ratio.max() <= 1.15


def linear_gain(attack: Attack, norm: str, eps: float, side: int = 6) -> np.ndarray:
    """What the attack wins on a binary linear model, as a share of what the budget and the box allow, where that is not
    enough to break the image.
    """
    images = pictures(12, 1, side, side, dtype=torch.float64)
    model, direction = binary(side * side)
    labels = model(images).argmax(1)
    away = np.where(labels.numpy()[:, None] == 0, direction, -direction)
    found = attack(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, eps))
    won = (away * (found - images).flatten(1).numpy()).sum(1)
    flat, right = images.flatten(1).numpy(), (model(found).argmax(1) == labels).numpy()
    assert right.sum() > 8
    return won[right] / [OPTIMA[norm](a, -x, 1 - x, eps) for a, x in zip(away[right], flat[right], strict=True)]


def test_square_breaks_what_can_be_broken() -> None:
    images = pictures(30, 1, 4, 4, dtype=torch.float64)
    model, direction = binary(16)
    logits = model(images).detach()
    labels, margin = logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs().numpy()
    away = np.where(labels.numpy()[:, None] == 0, direction, -direction)
    flat = images.flatten(1).numpy()
    reach = np.array([OPTIMA["linf"](a, -x, 1 - x, 0.05) for a, x in zip(away, flat, strict=True)])
    assert 5 < (reach > margin).sum() < 25
    found = Square(queries=600)(model, images, sp.Untargeted(labels), sp.ThreatModel("linf", 0.05))
    assert np.array_equal((model(found).argmax(1) != labels).numpy(), reach > margin)


@pytest.mark.parametrize(
    ("attack", "norm", "least"),
    [
        (Square(queries=900), "linf", 0.999),
        (SimBA(queries=120), "linf", 0.999),
        (RandomSearch(queries=1500), "linf", 0.75),
        (NES(queries=600), "linf", 0.8),
        (SPSA(queries=600, samples=50), "linf", 0.85),
        (NES(queries=600), "l2", 0.85),
        (SPSA(queries=600, samples=50), "l2", 0.8),
        (SimBA(queries=600), "l2", 0.8),
        (Square(queries=600), "l2", 0.55),  # bumps are blunter than a gradient without any pattern
        (Square(queries=600), "l1", 0.45),
    ],
    ids=lambda part: str(part),
)
def test_what_is_won_on_a_linear_model(attack: Attack, norm: str, least: float) -> None:
    eps = {"linf": 0.002, "l2": 0.02, "l1": 0.05}[norm]
    gain = linear_gain(attack, norm, eps)
    assert gain.max() <= 1 + 1e-9
    assert gain.min() >= least


# --- finite differences ----------------------------------------------------


@pytest.mark.parametrize("draw", [Streams.normal, _signs], ids=["nes", "spsa"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_estimates_are_unbiased_on_a_linear_loss(draw: object, norm: str) -> None:
    """Every component's mean over many directions lies within its standard error of the gradient."""
    images = 0.3 + 0.4 * pictures(3, 1, 4, 4, dtype=torch.float64)
    model, direction = binary(16)
    goal, pairs = sp.Untargeted(torch.tensor([0, 1, 0])), 20_000
    threat = sp.ThreatModel(norm, 0.3)
    with opened(NES(), model, images, goal, threat, None) as problem:
        found = estimate(problem, images, "margin", draw, pairs, 0.01).flatten(1).numpy()
    assert problem.ledger.forwards.tolist() == [2 * pairs] * 3
    exact = np.stack([direction, -direction, direction])
    error = np.sqrt((exact**2).sum() / 3 / pairs)
    assert np.abs(found - exact).max() < 5 * error
    assert 0.5 < ((found - exact) ** 2).mean() / error**2 < 1.5 * 2


@pytest.mark.parametrize("kind", [NES, SPSA])
def test_a_neighbour_does_not_disturb_an_estimate(kind: type[Attack]) -> None:
    """Finite differences summed over the batch drown in the neighbour whose loss is a million times larger."""
    images = pictures(4, 1, 4, 4, dtype=torch.float64) * 0.8 + 0.1
    linear = Linear(16, dtype=torch.float64)

    def loud(x: Tensor) -> Tensor:
        scale = torch.where((x.flatten(1)[:, :1] - images[0, 0, 0, 0]).abs() < 0.05, 1e6, 1.0)
        return linear(x) * scale

    labels = linear(images).argmax(1)
    attack = kind(queries=60, samples=10)
    threat = sp.ThreatModel("linf", 0.001)
    together = attack(loud, images, sp.Untargeted(labels), threat)
    for i in range(1, 4):
        alone = attack(loud, images[i : i + 1], sp.Untargeted(labels[i : i + 1]), threat)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-9)


def test_queries_stay_in_the_box_and_off_the_mask() -> None:
    images = pictures(5, 1, 4, 4)
    mask = torch.rand(4, 4, generator=generator(2)) < 0.5
    linear = Linear(16)
    fixed = ~mask.expand_as(images)
    known = {bytes(row.numpy().tobytes()) for row in images[fixed].view(5, -1)}

    def model(x: Tensor) -> Tensor:
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        for row in x[~mask.expand_as(x)].view(len(x), -1):
            assert bytes(row.numpy().tobytes()) in known, "a pixel outside the mask was changed for a query"
        return linear(x)

    labels = linear(images).argmax(1)
    for name, kind in WITH_QUERIES.items():
        for norm in kind.threats:
            eps = 2 if norm == "l0" else 0.1
            kind(queries=60)(lambda x: model(x), images, sp.Untargeted(labels), sp.ThreatModel(norm, eps, mask=mask))
            assert name


# --- Square's parts --------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9), (2, 1, 7), (11,), (1, 1, 1)], ids=str)
def test_a_square_always_changes_the_image(shape: tuple[int, ...]) -> None:
    images = pictures(30, *shape)
    goal, threat = sp.Untargeted(torch.zeros(30).long()), sp.ThreatModel("linf", 0.1)
    with opened(Square(), Linear(images[0].numel()), images, goal, threat, None) as problem:
        canvas = Canvas.of(images, threat)
        points = _stripes(problem, canvas)
        assert canvas.channels * canvas.height * canvas.width == images[0].numel()
        for share in (0.8, 0.1, 0.01, 0.0):
            numbers = problem.streams.uniform((5 + canvas.channels,), images)
            fresh = _repainted(problem, canvas, points, numbers, share)
            changed = (fresh != points).flatten(1).sum(1)
            assert bool((changed > 0).all()), share
            assert int(changed.max()) <= np.prod(canvas.sides(share)) * canvas.channels


def test_windows_reach_every_pixel_of_the_mask_and_no_other() -> None:
    mask = torch.zeros(6, 9, dtype=torch.bool)
    mask[2:5, 3:8] = True
    images = pictures(400, 2, 6, 9)
    canvas = Canvas.of(images, sp.ThreatModel("linf", 0.1, mask=mask))
    assert (canvas.top, canvas.left, canvas.tall, canvas.broad) == (2, 3, 3, 5)
    draws = torch.rand(400, 2, generator=generator(0))
    sides = canvas.sides(0.01)
    inside = canvas.inside(canvas.place(draws, sides), sides)
    assert torch.equal(inside.any(0)[0], mask)
    draws[0] = 1 - 2.0**-24
    flat = canvas.indices(canvas.place(draws, (2, 2)), (2, 2))
    assert flat.shape == (400, 2, 4)
    picked = torch.zeros(400, 54, dtype=torch.bool).scatter_(1, flat[:, 0], True).view(400, 1, 6, 9)
    assert torch.equal(picked, canvas.inside(canvas.place(draws, (2, 2)), (2, 2)))


@pytest.mark.parametrize("power", [1, 2])
def test_bumps_are_balanced_and_of_unit_size(power: int) -> None:
    for height, width in ((5, 5), (4, 4), (3, 9), (2, 1), (1, 1), (1, 6)):
        hill = bump(height, width, power)
        assert hill.shape == (height, width)
        assert float(hill.abs().pow(power).sum()) == pytest.approx(1, abs=1e-6)
        if height >= 2:
            assert bool((hill[: height // 2] > 0).all())
            assert bool((hill[height // 2 :] < 0).all())


# --- strength --------------------------------------------------------------


def fallen(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: sp.ThreatModel) -> int:
    found = attack(model, images, sp.Untargeted(labels), threat)
    return int((model(found).argmax(1) != labels).sum())


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.12), ("l2", 0.8)])
def test_searches_that_learn_beat_noise(
    norm: str, eps: float, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:50] for part in digits_data)
    threat = sp.ThreatModel(norm, eps)
    noise = fallen(RandomNoise(draws=300), digits_net, images, labels, threat)
    searches = [
        Square(queries=300),
        SimBA(queries=300),
        SimBA(queries=300, basis="dct"),
        NES(queries=300),
        SPSA(queries=300, samples=30),
        RandomSearch(queries=300),
    ]
    for attack in searches:
        assert fallen(attack, digits_net, images, labels, threat) >= noise + 5, attack


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_a_shift_of_all_logits_changes_nothing(
    loss: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:40] for part in digits_data)
    threat = sp.ThreatModel("linf", 0.1)
    for kind in (Square, NES, SPSA, SimBA, RandomSearch):
        attack = kind(queries=100, loss=loss)
        plain, shifted = (
            fallen(attack, nn.Sequential(digits_net, Shift(by)), images, labels, threat) for by in (0.0, -64.0)
        )
        assert abs(plain - shifted) <= 1, attack


class Shift(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.by


@pytest.mark.parametrize("name", ["square", "nes", "spsa", "simba", "random_search"])
def test_confident_logits_hide_nothing(name: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    """Times 1,000 the cross-entropy of nearly every image is exactly 0 in float32; the margin still falls."""
    images, labels = (part[:60] for part in digits_data)
    attack = ATTACKS[name](queries=200)
    threat = sp.ThreatModel("linf", 0.12)
    plain = fallen(attack, digits_net, images, labels, threat)
    loud = fallen(attack, lambda x: 1000 * digits_net(x), images, labels, threat)
    assert plain >= 15
    assert abs(loud - plain) <= 3


# --- labels alone ----------------------------------------------------------


@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_decision_attacks_see_predictions_and_nothing_else(
    kind: type[DecisionAttack], digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:12] for part in digits_data)

    def distorted(x: Tensor) -> Tensor:
        """The same predictions, from values that say nothing."""
        z = digits_net(x)
        noise = torch.sin(1e4 * z) * 0.4
        return nn.functional.one_hot(z.argmax(1), 10) + noise * (1 - nn.functional.one_hot(z.argmax(1), 10))

    goal, threat = sp.Untargeted(labels), sp.ThreatModel(kind.threats[0], 1)
    plain, other = (kind(queries=300).minimize(m, images, goal, threat) for m in (digits_net, distorted))
    assert torch.equal(plain, other)


@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_what_was_found_holds_in_any_batch(
    kind: type[DecisionAttack], digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:60] for part in digits_data)
    right = digits_net(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    for norm in kind.threats:
        found = kind(queries=600).minimize(digits_net, images, sp.Untargeted(labels), sp.ThreatModel(norm, 1))
        alone = torch.cat([digits_net(image[None]) for image in found]).argmax(1)
        assert bool((alone != labels).all()), norm
        assert bool((digits_net(found).argmax(1) != labels).all()), norm


@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_what_was_found_lies_beyond_the_boundary_by_more_than_rounding(kind: type[DecisionAttack]) -> None:
    linear, images = Linear(16, 2, dtype=torch.float64), pictures(40, 1, 4, 4, dtype=torch.float64)
    before = (linear(images)[:, 0] - linear(images)[:, 1]).detach()
    goal = sp.Untargeted(linear(images).argmax(1))
    found = kind(queries=600).minimize(linear, images, goal, sp.ThreatModel("l2", 1))
    after = (linear(found)[:, 0] - linear(found)[:, 1]).detach()
    assert float((-after / before).min()) > 5e-4


@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_where_noise_is_never_adversarial_coarser_pictures_are(kind: type[DecisionAttack]) -> None:
    """Only pictures that are bright all over belong to the other class; the mean of noise is never far from a half."""

    def model(x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(bright, 0.8), bright], 1)

    images = pictures(10, 1, 16, 16) * 0.5
    found = kind(queries=400).minimize(model, images, sp.Untargeted(torch.zeros(10).long()), sp.ThreatModel("l2", 1))
    assert bool((model(found).argmax(1) == 1).all())


@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_more_queries_come_nearer(
    kind: type[DecisionAttack], digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:16] for part in digits_data)
    medians = []
    for queries in (30, 200, 1000):
        found = kind(queries=queries).minimize(digits_net, images, sp.Untargeted(labels), sp.ThreatModel("l2", 1))
        medians.append(np.median(measured(found - images, "l2")))
    assert medians[1] < 0.8 * medians[0]
    assert medians[2] < 0.9 * medians[1]


@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_targets_are_reached_from_given_starts(
    kind: type[DecisionAttack], digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images = digits_data[0]
    predicted = digits_net(images).argmax(1)
    targets = (predicted[:20] + 1) % 10
    starts = torch.stack([images[(predicted == target).nonzero()[0, 0]] for target in targets])
    goal, threat = sp.Targeted(targets), sp.ThreatModel("l2", 1)
    found = kind(queries=600).minimize_from(starts, digits_net, images[:20], goal, threat)
    assert bool((digits_net(found).argmax(1) == targets).all())
    before, after = (measured(x - images[:20], "l2") for x in (starts, found))
    assert (after < before).all()
    assert np.median(after / before) < 0.6
    with pytest.raises(sp.SparringError, match="starts"):
        kind().minimize_from(starts[:3], digits_net, images[:20], goal, threat)


def test_a_budget_ends_the_search(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:30] for part in digits_data)
    for kind, norm in ((HopSkipJump, "l2"), (HopSkipJump, "linf"), (Boundary, "l2")):
        threat = sp.ThreatModel(norm, 2.5 if norm == "l2" else 0.5)
        evaluation = sp.evaluate(digits_net, images, labels, threat, attacks=[kind(queries=2000)])
        assert evaluation.robust_accuracy == 0
        assert max(record.forwards for record in evaluation.records) < 1500
        assert all(record.distance <= threat.eps * (1 + 1e-5) for record in evaluation.records if record.broken_by)


# --- no gradient at all ----------------------------------------------------


class _NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        raise RuntimeError("no backward here")


class Forward(nn.Module):
    """A model whose backward pass raises."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return _NoWayBack.apply(self.inner(images))


@pytest.mark.parametrize("name", list(WITH_QUERIES))
def test_a_model_whose_backward_raises_is_broken_all_the_same(
    name: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:20] for part in digits_data)
    kind = WITH_QUERIES[name]
    norm = kind.threats[0]
    threat = sp.ThreatModel(norm, {"linf": 0.4, "l2": 3.0}[norm])
    evaluation = sp.evaluate(Forward(digits_net), images, labels, threat, attacks=[kind(queries=400)])
    assert evaluation.robust_accuracy <= 0.1
    assert sum(record.backwards for record in evaluation.records) == 0
