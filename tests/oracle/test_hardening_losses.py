"""Training methods and extras against closed forms and against the papers' formulas written out again."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.helpers_core import Linear, generator, pictures
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import InputError
from sparring.hardening import Batch, Criterion
from sparring.hardening.augment import AUGMENTATIONS, augmented
from sparring.hardening.awp import perturbed_weights
from sparring.hardening.craft import noisy
from sparring.hardening.draws import Draws, seed_of
from sparring.hardening.ema import Average, refresh
from sparring.hardening.grad_align import misalignment
from sparring.hardening.hat import helper_loss
from sparring.hardening.methods import MART, NFGSM, PGD, RSFGSM, TRADES, FGSMMix, Free, Gaussian
from sparring.hardening.recipe import Recipe, chosen
from sparring.threat import ThreatModel

X, Y = pictures(6, 1, 4, 4, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
INSIDE = 0.4 + 0.2 * pictures(6, 1, 4, 4, seed=2)
"""Images that no budget of 0.1 takes to the box."""


def batch(model: nn.Module, images: Tensor = X, norm: str = "linf", eps: float = 0.1, **more: object) -> Batch:
    return Batch(model, model, images, Y, ThreatModel(norm, eps), Draws(len(images), 5), **more)  # type: ignore[arg-type]


def two_classes() -> nn.Module:
    """A linear model with two classes: its loss climbs along one direction everywhere."""
    return Linear(16, classes=2)


def binary(norm: str, eps: float = 0.1, images: Tensor = INSIDE) -> Batch:
    model = two_classes()
    return Batch(model, model, images, Y % 2, ThreatModel(norm, eps), Draws(len(images), 5))


def uphill(given: Batch) -> Tensor:
    weight = given.module.weight.detach()  # type: ignore[union-attr, operator]
    return (weight[1 - given.labels] - weight[given.labels]).view_as(given.images)


@pytest.mark.parametrize("method", [RSFGSM(random_start=False, step=1.0), RSFGSM(step=2.0), PGD(steps=10), FGSMMix()])
def test_on_a_linear_model_every_method_ends_at_the_corner(method: PGD) -> None:
    given = binary("linf")
    torch.testing.assert_close(method.craft(given), INSIDE + 0.1 * uphill(given).sign())


@pytest.mark.parametrize("method", [RSFGSM(random_start=False, step=1.0), FGSMMix()])
def test_in_l2_one_step_goes_along_the_gradient(method: RSFGSM) -> None:
    given = binary("l2")
    direction = uphill(given)
    direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(method.craft(given), INSIDE + 0.1 * direction)


def test_n_fgsm_adds_noise_and_one_step_without_projection() -> None:
    given = binary("linf")
    change = NFGSM(noise=2.0).craft(given) - INSIDE - 0.1 * uphill(given).sign()
    assert 0.15 < float(change.abs().max()) <= 0.2 + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_is_not_clipped_by_the_box(norm: str) -> None:
    """On a black picture half of the noise would be none at all."""
    black = torch.zeros(6, 1, 4, 4)
    change = noisy(binary(norm, images=black), 0.2)
    size = change.flatten(1).norm(dim=1) if norm == "l2" else change.abs().flatten(1).amax(1)
    assert float(change.min()) < 0
    assert 0.1 < float(size.max()) <= 0.2 + 1e-6
    assert abs(float(change.sign().mean())) < 0.3


def test_noise_stays_inside_the_mask() -> None:
    given, mask = binary("linf"), torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0] = True
    masked = Batch(**{**vars(given), "threat": ThreatModel("linf", 0.1, mask=mask)})
    change = noisy(masked, 0.1) - INSIDE
    assert not bool(change[:, :, 1:].any())
    assert bool(change[:, :, 0].all())
    points = RSFGSM().craft(masked)
    assert torch.equal(points[:, :, 1:], INSIDE[:, :, 1:])


def test_the_sampled_mix_stays_within_eps() -> None:
    given = binary("linf")
    sizes = (FGSMMix(sampled=True).craft(given) - INSIDE).abs().flatten(1).amax(1)
    assert float(sizes.max()) <= 0.1 + 1e-6
    assert len({round(float(size), 5) for size in sizes}) > 3


def test_the_sampled_mix_draws_from_a_truncated_normal_and_then_clips() -> None:
    """Kurakin et al.: |N(0, eps/2)| truncated at eps, whose mean is 0.361 eps; only what the box forbids is cut off."""
    n, near = 4000, 0.99
    model = two_classes()
    images = torch.full((n, 1, 4, 4), near)
    given = Batch(model, model, images, torch.zeros(n).long(), ThreatModel("linf", 0.1), Draws(n, 5))
    change = FGSMMix(sampled=True).craft(given) - images
    up = (model.weight[1] - model.weight[0]).view(1, 4, 4).expand_as(change) > 0  # type: ignore[index]
    sizes = -change[~up].view(n, -1)[:, 0]
    assert float(sizes.mean()) == pytest.approx(0.0361, rel=0.05)
    assert int((sizes > 0.0999).sum()) < 0.005 * n, "those beyond eps are drawn again, not piled up there"
    torch.testing.assert_close(change[up].view(n, -1)[:, 0], sizes.clamp_max(1 - near), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", [RSFGSM(), FGSMMix(), TRADES(), MART(), Gaussian()])
def test_what_is_shown_is_what_is_learned_from(method: RSFGSM) -> None:
    """Batch-norm statistics of averaged weights are taken from it."""
    model, learned = small_four(), []

    def learner(points: Tensor) -> Tensor:
        learned.append(points)
        out: Tensor = model(points)
        return out

    given = Batch(learner, model, X, Y, ThreatModel("linf", 0.1), Draws(len(X), 5))
    method.loss(given, method.craft(given))
    again = batch(model)
    torch.testing.assert_close(torch.cat(learned), method.shown(again, method.craft(again)))


def test_the_mix_weighs_both_halves_alike() -> None:
    model = small_four()
    given = batch(model)
    points = FGSMMix().craft(given)
    by_hand = (functional.cross_entropy(model(X), Y) + functional.cross_entropy(model(points), Y)) / 2
    torch.testing.assert_close(FGSMMix().loss(given, points), by_hand)


def small_four() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


@pytest.fixture(autouse=True)
def _seed_as_before():
    with torch.random.fork_rng(devices=[]):
        yield


def test_trades_is_its_formula() -> None:
    model = small_four()
    given = batch(model)
    points = pictures(6, 1, 4, 4, seed=9)  # so far away that the divergence is not symmetric
    p, q = functional.softmax(model(X), 1), functional.softmax(model(points), 1)
    by_hand = functional.cross_entropy(model(X), Y) + 6 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(TRADES().loss(given, points), by_hand)


def test_trades_climbs_the_divergence() -> None:
    """On a linear model with two classes the divergence grows along ± one direction; the points are at its ends."""
    given = binary("linf")
    change = TRADES(steps=10).craft(given) - INSIDE
    torch.testing.assert_close(
        (change * uphill(given)).flatten(1).sum(1).abs(), 0.1 * uphill(given).abs().flatten(1).sum(1)
    )


def test_mart_is_its_formula() -> None:
    model = small_four()
    given = batch(model)
    points = pictures(6, 1, 4, 4, seed=9)
    p, q = functional.softmax(model(X), 1), functional.softmax(model(points), 1)
    own = torch.arange(6), Y
    other = q.clone()
    other[own] = 0
    boosted = -q[own].log() - (1 - other.amax(1) + 1e-4).log()
    by_hand = (boosted + 5 * (p * (p / q).log()).sum(1) * (1 - p[own])).mean()
    torch.testing.assert_close(MART().loss(given, points), by_hand, rtol=1e-4, atol=1e-5)


def test_free_moves_on_from_where_it_was() -> None:
    """Three passes by hand: the gradient of the learning pass moves the perturbation."""
    model, method = small_four(), Free(replays=3)
    given = batch(model, INSIDE)
    delta = torch.zeros_like(INSIDE)
    for _ in range(3):
        points = method.craft(given)
        torch.testing.assert_close(points, INSIDE + delta)
        method.loss(given, points).backward()
        at = (INSIDE + delta).requires_grad_()
        (grad,) = torch.autograd.grad(functional.cross_entropy(model(at), Y), at)
        delta = (delta + 0.1 * grad.sign()).clamp(-0.1, 0.1)
    assert method.repeats == 3


def test_gradalign_is_zero_where_the_gradient_never_turns() -> None:
    assert abs(float(misalignment(binary("linf")).detach())) < 1e-5
    bent = misalignment(batch(small_four(), eps=0.5))
    assert float(bent.detach()) > 0.01
    bent.backward()  # type: ignore[no-untyped-call]


def test_awp_goes_uphill_by_a_share_of_each_layer_and_comes_back_exactly() -> None:
    model = small_four()
    before = copy.deepcopy(model.state_dict())
    loss = lambda: functional.cross_entropy(model(X), Y)  # noqa: E731
    low = float(loss().detach())
    with perturbed_weights(model, loss, 0.05):
        assert float(loss().detach()) > low
        for name, value in model.state_dict().items():
            moved = float((value - before[name]).norm() / before[name].norm())
            assert moved == pytest.approx(0.05 if value.dim() > 1 else 0.0, rel=1e-4, abs=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_helper_lies_twice_as_far_and_is_labelled_by_the_standard_model() -> None:
    model, standard = small_four(), Linear(16)
    given = batch(model, INSIDE)
    points = PGD().craft(given)
    labels = standard(points).argmax(1)
    by_hand = functional.cross_entropy(model(INSIDE + 2 * (points - INSIDE)), labels)
    torch.testing.assert_close(helper_loss(given, points, standard), by_hand)


def test_averaged_weights_are_the_recursion() -> None:
    model = small_four()
    average, by_hand = Average(model, 0.9), [p.detach().clone() for p in model.parameters()]
    for step in range(30):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator(step)))
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        by_hand = [decay * old + (1 - decay) * p.detach() for old, p in zip(by_hand, model.parameters(), strict=True)]
    for kept, expected in zip(average.module.parameters(), by_hand, strict=True):
        torch.testing.assert_close(kept, expected)


def test_refreshed_statistics_are_those_of_the_points() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    batches = [pictures(50, 2, 4, 4, seed=s) for s in range(3)]
    refresh(model, [model[0]], batches)
    everything = torch.cat(batches)
    torch.testing.assert_close(model[0].running_mean, everything.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert not model[0].training
    assert model[0].momentum == 0.1


def test_smooth_labels_are_for_learning_not_for_attacking() -> None:
    logits, smooth = torch.randn(6, 3, generator=generator()), Criterion(smoothing=0.3)
    torch.testing.assert_close(smooth.attack(logits, Y), functional.cross_entropy(logits, Y, reduction="none"))
    target = torch.full((6, 3), 0.1).scatter(1, Y[:, None], 0.8)
    by_hand = -(target * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(smooth.learn(logits, Y), by_hand)


def test_a_loss_of_ones_own_is_used_and_checked() -> None:
    own = Criterion(own=lambda logits, labels: -logits.gather(1, labels[:, None]).squeeze(1))
    model = small_four()
    given = batch(model, criterion=own)
    points = PGD().craft(given)
    torch.testing.assert_close(PGD().loss(given, points), -model(points).gather(1, Y[:, None]).mean())
    with pytest.raises(InputError, match="one value per image"):
        Criterion(own=functional.cross_entropy).learn(model(X), Y)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_keeps_shape_and_box(name: str) -> None:
    images = pictures(40, 3, 16, 16, seed=4)
    changed = augmented(images, (name,), Draws(40, 1))
    assert changed.shape == images.shape
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert not torch.equal(changed, images)
    assert torch.equal(changed, augmented(images, (name,), Draws(40, 1)))


def test_crop_shifts_and_flip_mirrors() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(60, 1, 1, 1) / 64
    shifted = AUGMENTATIONS["crop"](image, Draws(60, 0))
    inner = {tuple(row.flatten().tolist()) for row in shifted[:, 0, 1:7, 1:7]}
    allowed = {
        tuple(image[0, 0, 1 + a : 7 + a, 1 + b : 7 + b].flatten().tolist()) for a in (-1, 0, 1) for b in (-1, 0, 1)
    }
    assert inner == allowed
    mirrored = AUGMENTATIONS["flip"](image, Draws(60, 0))
    same = (mirrored == image).flatten(1).all(1)
    assert 10 < int(same.sum()) < 50
    assert torch.equal(mirrored[~same], image[~same].flip(3))


def test_the_rate_rises_and_falls_in_straight_lines() -> None:
    recipe = Recipe(lr=1.0, rise=0.25)
    assert [round(recipe.rate(p), 3) for p in (0.125, 0.25, 0.625, 1.0)] == [0.5, 1.0, 0.5, 0.001]
    grown = Recipe(eps_warmup=0.5)
    assert [grown.budget(0.2, p) for p in (0.25, 0.5, 1.0)] == [0.1, 0.2, 0.2]


def test_draws_follow_from_the_step_alone() -> None:
    like = torch.zeros(1)
    assert torch.equal(
        Draws(3, seed_of(0, "craft", 7)).uniform((2,), like), Draws(3, seed_of(0, "craft", 7)).uniform((2,), like)
    )
    assert seed_of(0, "craft", 7) != seed_of(0, "craft", 8)
    region = ThreatModel("linf", 0.1).around(INSIDE)
    change = (Draws(6, 1).inside(region) - INSIDE).abs()
    assert 0.09 < float(change.max()) <= 0.1 + 1e-6


@pytest.mark.parametrize(
    ("method", "images", "batch_size", "epochs"),
    [
        ("pgd", 54_000, 128, 15),  # 421 updates in an epoch
        ("fast", 54_000, 128, 20),
        ("pgd", 3_600, 50, 28),  # 72 in an epoch
        ("fgsm_mix", 3_600, 50, 15),  # 25 images and their points in a step: 144 in an epoch
        ("pgd", 10_800, 128, 24),
        ("pgd", 40, 32, 100),
        ("pgd", 10, 32, 100),
    ],
)
def test_small_sets_get_as_many_updates(method: str, images: int, batch_size: int, epochs: int) -> None:
    how, recipe = chosen(method, {})
    sized = recipe.sized(how, images)
    assert (sized.batch_size, sized.epochs) == (batch_size, epochs)
    named = chosen(method, {"epochs": 3, "batch_size": 8})[1].sized(how, images)
    assert (named.batch_size, named.epochs) == (8, 3)
