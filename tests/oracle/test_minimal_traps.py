"""What minimal-norm attacks elsewhere have stumbled over, and what ours promise beside the distance."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.helpers_core import Linear, measured, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import DDN, FAB, FMN, DeepFool
from sparring.attacks.base import opened
from sparring.attacks.minimal import MinimalAttack, Nearest

OURS: list[tuple[MinimalAttack, str]] = [
    (DDN(), "l2"),
    *((DeepFool(), norm) for norm in DeepFool.threats),
    *((FMN(), norm) for norm in FMN.threats),
    *((FAB(steps=40), norm) for norm in FAB.threats),
    (FAB(steps=40, targets=3), "linf"),
]
CASES = [pytest.param(attack, norm, id=f"{attack}-{norm}") for attack, norm in OURS]
Model = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def net(digits_net: nn.Module) -> nn.Module:
    return copy.deepcopy(digits_net).double()


@pytest.fixture(scope="module")
def data(net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """40 images in float64 that the net gets right."""
    images, labels = digits_data[0].double(), digits_data[1]
    right = (net(images).argmax(1) == labels).nonzero().flatten()[:40]
    return images[right], labels[right]


def distances(attack: MinimalAttack, model: Model, data: tuple[Tensor, Tensor], threat: sp.ThreatModel) -> Tensor:
    """Per image; infinite where it is not fooled."""
    images, labels = data
    found = attack.minimize(model, images, sp.Untargeted(labels), threat)
    far = torch.from_numpy(measured(found - images, threat.norm))
    return far.where(model(found).argmax(1) != labels, torch.inf)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_every_image_falls(attack: MinimalAttack, norm: str, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    assert bool(distances(attack, net, data, sp.ThreatModel(norm, 1)).isfinite().all())


@pytest.mark.parametrize(("attack", "norm"), CASES)
@pytest.mark.parametrize("shift", [-100.0, 1000.0])
def test_a_constant_added_to_all_logits_changes_no_distance(
    attack: MinimalAttack, norm: str, shift: float, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    threat = sp.ThreatModel(norm, 1)
    plain, shifted = (distances(attack, model, data, threat) for model in (net, lambda x: net(x) + shift))
    torch.testing.assert_close(shifted.median(), plain.median(), rtol=0.02, atol=0)
    assert bool(shifted.isfinite().all())


@pytest.mark.parametrize(("attack", "norm"), CASES)
@pytest.mark.parametrize("scale", [100.0, 0.01])
def test_the_scale_of_the_logits_changes_little(
    attack: MinimalAttack, norm: str, scale: float, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    """In float32, where the softmax of logits times 100 is exactly 0 or 1 and the cross-entropy has no gradient."""
    single, narrow = copy.deepcopy(net).float(), (data[0].float(), data[1])
    threat = sp.ThreatModel(norm, 1)
    plain, scaled = (distances(attack, model, narrow, threat) for model in (single, lambda x: scale * single(x)))
    assert bool(scaled.isfinite().all())
    assert scaled.median() <= plain.median() * 1.1


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_the_size_of_the_box_changes_nothing(
    attack: MinimalAttack, norm: str, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    images, labels = data
    plain = distances(attack, net, data, sp.ThreatModel(norm, 1))
    wide = distances(
        attack, lambda x: net(x / 200 + 0.5), (images * 200 - 100, labels), sp.ThreatModel(norm, 1, bounds=(-100, 100))
    )
    unit = 1 if norm == "l0" else 200
    torch.testing.assert_close(wide.median() / unit, plain.median(), rtol=0.05, atol=0)


def test_without_its_overshoot_fmn_would_rest_just_inside_the_boundary() -> None:
    """On a linear model the first radius is exactly the boundary's distance: without overshoot only rounding helps."""
    images = torch.randn(20, 1, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = Linear(25, 2, dtype=torch.float64)
    data, threat = (images, model(images).argmax(1)), sp.ThreatModel("l2", 1, bounds=(-1000, 1000))
    assert float(distances(FMN(overshoot=0), model, data, threat).isfinite().double().mean()) < 0.7
    assert bool(distances(FMN(overshoot=0.001), model, data, threat).isfinite().all())


@pytest.mark.parametrize("norm", FAB.threats)
def test_fab_does_not_swing_within_rounding_of_the_boundary(norm: str) -> None:
    """Steps onto the boundary itself come to rest with leads too small to count; eta alone does not cure that."""
    images = pictures(20, 1, 5, 5, seed=4)
    model = Linear(25, 2)
    far = distances(FAB(steps=10, eta=1.0), model, (images, model(images).argmax(1)), sp.ThreatModel(norm, 1))
    assert bool(far.isfinite().all())


class Witness:
    """A model that remembers every adversarial point that it was shown (one image at a time) by its distance."""

    def __init__(self, model: Model, image: Tensor, label: Tensor, norm: str) -> None:
        self.model, self.image, self.label, self.norm = model, image, label, norm
        self.nearest = torch.inf

    def __call__(self, points: Tensor) -> Tensor:
        logits = self.model(points)
        lead = logits.scatter(1, self.label[None, None].expand(len(points), 1), -torch.inf).amax(1)
        clear = lead - logits[:, self.label] > 1e-3
        far = torch.from_numpy(measured(points - self.image, self.norm))[clear]
        self.nearest = min(self.nearest, float(far.min()) if len(far) else torch.inf)
        return logits


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_the_nearest_point_seen_is_returned_not_the_last(
    attack: MinimalAttack, norm: str, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    for image, label in zip(data[0][:5], data[1][:5], strict=True):
        witness = Witness(net, image[None], label, norm)
        far = distances(attack, witness, (image[None], label[None]), sp.ThreatModel(norm, 1))
        assert float(far) <= witness.nearest * (1 + 1e-9)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_an_image_that_meets_the_goal_comes_back_as_it_is(attack: MinimalAttack, norm: str, net: nn.Module) -> None:
    images = pictures(6, 1, 8, 8, dtype=torch.float64)
    predicted = net(images).argmax(1)
    for goal in (sp.Untargeted((predicted + 1) % 10), sp.Targeted(predicted)):
        assert torch.equal(attack.minimize(net, images, goal, sp.ThreatModel(norm, 1)), images)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_targets_are_reached(attack: MinimalAttack, norm: str, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    images, labels = data[0], (data[1] + 3) % 10
    found = attack.minimize(net, images, sp.Targeted(labels), sp.ThreatModel(norm, 1))
    reached = (net(found).argmax(1) == labels).double().mean()
    assert reached >= (0.8 if isinstance(attack, DeepFool) or norm in ("l1", "l0") else 0.95)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_as_a_budget_attack_it_stops_inside_the_budget(
    attack: MinimalAttack, norm: str, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    images, labels = data
    far = distances(attack, net, data, sp.ThreatModel(norm, 1))
    eps = float(far.quantile(0.6))
    threat = sp.ThreatModel(norm, round(eps) if norm == "l0" else eps)
    with opened(attack, net, images, sp.Untargeted(labels), threat, None) as problem:
        found = attack.run(problem)
        run = problem.ledger
    with opened(attack, net, images, sp.Untargeted(labels), threat, None) as problem:
        attack.nearest(problem.widened(), 0.0)
        whole = problem.ledger
    assert bool(threat.contains(images, found).all())
    broken = net(found).argmax(1) != labels
    assert broken.sum() >= (far <= threat.eps).sum() - 2
    assert bool((run.backwards <= whole.backwards).all())
    if not isinstance(attack, DeepFool):  # it stops at its first adversarial in any case
        assert run.backwards[broken].sum() < 0.8 * whole.backwards[broken].sum()


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_a_model_without_a_way_gives_the_image_back(attack: MinimalAttack, norm: str) -> None:
    images = pictures(4, 1, 4, 4)
    threat = sp.ThreatModel(norm, 1)

    def flat(x: Tensor) -> Tensor:
        return torch.stack([0 * x.flatten(1).sum(1) + 1, 0 * x.flatten(1).sum(1)], 1)

    def silent(x: Tensor) -> Tensor:
        return flat(x) * torch.nan

    for model in (flat, silent):
        found = attack.minimize(model, images, sp.Untargeted(torch.zeros(4).long()), threat)
        assert torch.equal(found, images)


def test_logits_that_turn_nan_on_the_way_spoil_nothing() -> None:
    """Beyond 0.6 in the first pixel the model does not answer; the second pixel is another way out."""

    def model(x: Tensor) -> Tensor:
        first, second = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
        lead = 2 * first + second - 1.7
        hole = torch.where(first > 0.6, torch.nan, torch.zeros_like(first))
        return torch.stack([-lead + hole, lead], 1)

    images = torch.tensor([[[[0.3, 0.3]]], [[[0.1, 0.55]]]], dtype=torch.float64)
    goal = sp.Untargeted(torch.zeros(2).long())
    for attack, norm in ((DDN(), "l2"), (FMN(), "l2"), (FMN(), "linf"), (FAB(), "l2"), (DeepFool(), "l2")):
        found = attack.minimize(model, images, goal, sp.ThreatModel(norm, 1))
        assert bool(found.isfinite().all()), attack


class Counted(torch.autograd.Function):
    """The identity, which counts the rows that pass backwards."""

    rows = 0

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        Counted.rows += int(grad.flatten(1).any(1).sum())
        return grad


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_every_pass_is_on_the_bill(
    attack: MinimalAttack, norm: str, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    forwards = 0

    def model(x: Tensor) -> Tensor:
        nonlocal forwards
        forwards += len(x)
        return net(Counted.apply(x))

    images, labels = data[0][:12], data[1][:12]
    with opened(attack, model, images, sp.Untargeted(labels), sp.ThreatModel(norm, 1), None) as problem:
        forwards, Counted.rows = 0, 0
        attack.nearest(problem.widened(), 0.0)
    assert forwards == int(problem.ledger.forwards.sum())
    assert Counted.rows == int(problem.ledger.backwards.sum())


def test_drawing_in_keeps_what_it_found_when_nothing_nearer_works() -> None:
    images = torch.full((2, 1, 1, 4), 0.5)
    points = images + torch.tensor([0.2, 0.4]).reshape(2, 1, 1, 1)

    def model(x: Tensor) -> Tensor:
        """Adversarial beyond 0.199 only: the first find is at the boundary, the second is twice as far."""
        far = (x - 0.5).flatten(1).abs().amax(1) - 0.199
        return torch.stack([-far, far], 1)

    with opened(FMN(), model, images, sp.Untargeted(torch.zeros(2).long()), sp.ThreatModel("linf", 1), None) as problem:
        best = Nearest(problem)
        best.offer(torch.arange(2), points, torch.tensor([True, True]))
        best.draw_in(problem, 12)
    assert float(best.distance[0]) == pytest.approx(0.2, rel=0.006)
    assert float(best.distance[1]) == pytest.approx(0.2, rel=0.05)
    assert bool(problem.solved(model(best.points)).all())
