"""Adversarials on the 8-bit grid: inside the budget, alive, and the same after a real PNG file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers_core import NORMS, Linear, assert_allowed, generator, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import PGD, Grid, parse, survives_8bit
from sparring.attacks.grid import snapped, through_png
from sparring.auditing.pictures import png_bytes

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
EPS = {"linf": 0.06, "l2": 0.5, "l1": 2.0, "l0": 4}
VALUES = torch.arange(256) / 255


def on_grid(images: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Bool per number: one of the 256 values, up to float rounding."""
    low, high = bounds
    place = (images.double() - low) / (high - low) * 255
    return (place - place.round()).abs() < 1e-4


def saved(*shape: int, seed: int = 0) -> Tensor:
    """Random pictures as they come out of a file."""
    return torch.randint(0, 256, shape, generator=generator(seed)) / 255


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_256_values_come_back_bit_for_bit(channels: int) -> None:
    images = VALUES.view(1, 1, 16, 16).repeat(2, channels, 1, 1)
    images[1] = images[1].flip(-1)
    assert torch.equal(through_png(images), images)
    for dtype, bounds in ((torch.float64, (0.0, 1.0)), (torch.float32, (-1.0, 1.0)), (torch.float64, (-0.3, 2.0))):
        wide = (bounds[0] + images.double() * (bounds[1] - bounds[0])).to(dtype)
        read = through_png(wide, bounds)
        torch.testing.assert_close(read, wide, rtol=0, atol=1e-6)
        assert torch.equal(through_png(read, bounds), read)
    assert torch.equal(through_png(images[:, :, 0, :]), images[:, :, 0, :])


def test_values_in_between_are_rounded_never_cut_off() -> None:
    images = torch.tensor([0.0, 0.4, 0.6, 1.4, 254.4, 254.6, 255.0]).view(1, 1, 1, 7) / 255
    assert (through_png(images) * 255).round().flatten().tolist() == [0, 0, 1, 1, 254, 255, 255]


def test_it_is_what_a_file_on_disk_gives(tmp_path: Path) -> None:
    for channels in (1, 3):
        image = pictures(1, channels, 9, 7)
        path = tmp_path / f"{channels}.png"
        path.write_bytes(png_bytes(image[0]))
        assert torch.equal(sp.load_image(path, channels=channels), through_png(image))


@st.composite
def situations(draw: st.DrawFn) -> tuple[str, float, Tensor, Tensor, Tensor | None, tuple[float, float]]:
    """A norm, a budget, originals (on the grid or not), points of the region, maybe a gradient, a box."""
    norm = draw(st.sampled_from(NORMS))
    eps = draw(st.sampled_from([0, 1, 3, 7])) if norm == "l0" else draw(st.floats(1e-4, 3.0))
    seed = draw(st.integers(0, 999))
    bounds = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-0.3, 2.0)]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    drawn = saved(3, 1, 3, 4, seed=seed) if draw(st.booleans()) else pictures(3, 1, 3, 4, seed=seed)
    images = (bounds[0] + drawn.double() * (bounds[1] - bounds[0])).to(dtype).clamp(*bounds)
    noise = torch.randn(images.shape, generator=generator(seed + 1), dtype=torch.float64).to(dtype)
    points = sp.ThreatModel(norm, eps, bounds=bounds).project(
        images, images + noise * draw(st.sampled_from([0.01, 1.0]))
    )
    grad = torch.randn(images.shape, generator=generator(seed + 2), dtype=torch.float64).to(dtype)
    return norm, eps, images, points, grad if draw(st.booleans()) else None, bounds


@QUICK
@given(situations())
def test_snapped_points_stay_in_the_region_next_to_where_they_were(
    case: tuple[str, float, Tensor, Tensor, Tensor | None, tuple[float, float]],
) -> None:
    norm, eps, images, points, grad, bounds = case
    threat = sp.ThreatModel(norm, eps, bounds=bounds)
    found = snapped(threat.around(images), bounds, points, grad)
    assert found.dtype == images.dtype
    assert bool(threat.contains(images, found).all())
    assert bool((on_grid(found, bounds) | (found == images)).all())
    level = (bounds[1] - bounds[0]) / 255
    assert float((found - points).abs().max()) <= level * 1.001


@QUICK
@given(st.integers(0, 999), st.sampled_from(NORMS))
def test_with_room_every_pixel_goes_where_the_gradient_points_or_to_the_nearest(seed: int, norm: str) -> None:
    images = pictures(2, 1, 4, 4, seed=seed)
    points = images + 0.003 * torch.randn(images.shape, generator=generator(seed))
    points = points.clamp(0, 1)
    region = sp.ThreatModel(norm, 16).around(images)
    torch.testing.assert_close(snapped(region, (0, 1), points), (points * 255).round() / 255)
    grad = torch.randn(images.shape, generator=generator(seed + 1))
    place = points.double() * 255
    expected = torch.where(grad > 0, (place - 1e-4).ceil(), (place + 1e-4).floor()) / 255
    torch.testing.assert_close(snapped(region, (0, 1), points, grad), expected.float())


def test_what_is_left_of_the_budget_buys_the_best_bargains() -> None:
    """Four pixels want one step up; the budget pays for two of them: those with the steepest slope."""
    images = torch.full((1, 1, 1, 4), 100 / 255)
    points = images + 0.5 / 255
    grad = torch.tensor([1.0, 4.0, 2.0, 3.0]).view(1, 1, 1, 4)
    for norm, eps in (("l1", 2.2 / 255), ("l2", 1.5 / 255), ("l0", 2)):
        found = snapped(sp.ThreatModel(norm, eps).around(images), (0, 1), points, grad)
        assert (found * 255).round().sub(100).flatten().tolist() == [0, 1, 0, 1], norm


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps_in_steps", [1, 2.5, 8])
def test_budgets_in_steps_of_the_grid_are_used_to_the_last(norm: str, eps_in_steps: float) -> None:
    """A linear model: from a saved picture, the best point of linf on the grid is floor(eps) steps in every pixel."""
    images, model = saved(6, 1, 4, 4), Linear(16)
    goal = sp.Untargeted(model(images).argmax(1))
    eps = 3 if norm == "l0" else eps_in_steps / 255 * {"linf": 1, "l2": 4, "l1": 16}[norm]
    found = Grid(PGD(steps=20, early_stop=False))(model, images, goal, sp.ThreatModel(norm, eps))
    assert bool(on_grid(found).all())
    assert_allowed(images, found, norm, eps)
    if norm == "linf":
        steps = (found - images).mul(255).round().abs()
        free = (images > eps) & (images < 1 - eps)
        assert float(steps.max()) == int(eps_in_steps)
        assert float((steps[free] == int(eps_in_steps)).double().mean()) > 0.9


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.06), ("linf", 10 / 255), ("l2", 0.4), ("l1", 1.5), ("l0", 1)])
@pytest.mark.parametrize("kind", ["saved", "between"])
def test_what_it_finds_survives_the_file(
    norm: str, eps: float, kind: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    """The digits' sixteen grey values lie between those of a file; only where the budget forbids it do they stay so."""
    images, labels = (part[:150] for part in digits_data)
    images = (images * 255).round() / 255 if kind == "saved" else images
    goal, threat = sp.Untargeted(labels), sp.ThreatModel(norm, eps)
    plain, grid = (parse(text)(digits_net, images, goal, threat) for text in ("pgd:steps=20", "pgd:steps=20+grid"))
    assert bool(threat.contains(images, grid).all())
    before, after = (goal.is_met(digits_net(x)) for x in (plain, grid))
    assert 0.05 < before.double().mean() < 0.9
    assert after.sum() >= before.sum() - 2
    survived = survives_8bit(digits_net, grid, goal)
    if kind == "saved":
        assert bool(on_grid(grid).all())
        assert torch.equal(survived, after)
        assert torch.equal(through_png(grid), grid)
    else:
        assert (survived & after).sum() >= after.sum() - 1
        assert bool((on_grid(grid) | (grid == images)).all())


def test_plain_rounding_kills_what_the_grid_keeps(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    """Adversarials that barely cross the boundary, in a small budget."""
    images = (digits_data[0][:300] * 255).round() / 255
    goal = sp.Untargeted(digits_data[1][:300])
    threat = sp.ThreatModel("linf", 3.5 / 255)
    survivors = {}
    for text in ("pgd:steps=30,loss=margin", "pgd:steps=30,loss=margin+grid"):
        found = parse(text)(digits_net, images, goal, threat)
        survivors[text] = int((survives_8bit(digits_net, found, goal) & threat.contains(images, found)).sum())
        rounded = int(threat.contains(images, through_png(found)).sum())
    plain, grid = survivors.values()
    assert grid >= plain
    assert rounded == len(images), "and the file itself is inside the budget"


def test_the_attack_is_not_content_with_half_a_step(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    """In linf only whole steps can be used: a search that needs 12.9 steps has found nothing."""
    images = (digits_data[0][:300] * 255).round() / 255
    goal = sp.Untargeted(digits_data[1][:300])
    broken = []
    for steps in (12, 12.9):
        found = parse("pgd:steps=20+grid:repairs=0")(digits_net, images, goal, sp.ThreatModel("linf", steps / 255))
        broken.append(int(goal.is_met(digits_net(found)).sum()))
    assert broken[0] > 10
    assert broken[1] >= broken[0]


class Peak(nn.Module):
    """Wrong only where a + 1.1 b is within 0.4 of 3.1, in steps of 1/255 from 100."""

    def forward(self, images: Tensor) -> Tensor:
        a, b = (images.flatten(1) * 255 - 100).unbind(1)
        value = 0.4 - (a + 1.1 * b - 3.1).abs()
        return torch.stack([torch.zeros_like(value), value], 1)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 3), ("l2", 4)])
def test_an_adversarial_that_rounding_undoes_is_mended(norm: str, eps: float) -> None:
    """PGD stops at about (1.4, 1.4); both up would be too much, and both down too little: (2, 1) or (1, 2) will do."""
    images = torch.full((1, 1, 1, 2), 100 / 255)
    goal, threat = sp.Untargeted(torch.tensor([0])), sp.ThreatModel(norm, eps / 255)
    size = 0.7 / 255 * {"linf": 1, "l2": 2**0.5}[norm]
    inner = PGD(steps=10, step_size=size, loss="margin", random_start=False)
    assert bool(goal.is_met(Peak()(inner(Peak(), images, goal, threat))).all())
    for repairs in (0, 10):
        found = Grid(inner, repairs=repairs)(Peak(), images, goal, threat)
        assert bool(on_grid(found).all())
        assert bool(goal.is_met(Peak()(found)).all()) == (repairs > 0)


def test_repairs_help_and_cost_what_they_say(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images = (digits_data[0][:200] * 255).round() / 255
    labels = digits_data[1][:200]
    threat = sp.ThreatModel("l2", 0.25)
    stages = {}
    for text in ("pgd", "pgd+grid:repairs=0", "pgd+grid:repairs=10"):
        (stages[text],) = sp.evaluate(digits_net, images, labels, threat, attacks=[text]).stages
    plain, none, ten = stages.values()
    assert none.broke <= ten.broke <= plain.broke + 2
    assert ten.broke >= plain.broke - 1
    assert none.backwards == pytest.approx(plain.backwards, rel=0.2)


def test_masks_keep_their_pixels_on_and_off_the_grid() -> None:
    images, model = pictures(6, 1, 4, 4), Linear(16)
    mask = torch.rand((4, 4), generator=generator(3)) < 0.5
    goal = sp.Untargeted(model(images).argmax(1))
    for norm in NORMS:
        found = Grid(PGD(steps=5))(model, images, goal, sp.ThreatModel(norm, EPS[norm], mask=mask))
        fixed = ~mask.broadcast_to(images.shape)
        assert torch.equal(found[fixed], images[fixed])
        assert bool((on_grid(found) | (found == images)).all())


def test_a_budget_below_one_step_changes_nothing_that_is_on_the_grid() -> None:
    images, model = saved(5, 1, 4, 4), Linear(16)
    goal = sp.Untargeted(model(images).argmax(1))
    for norm in ("linf", "l2", "l1"):
        found = Grid()(model, images, goal, sp.ThreatModel(norm, 0.9 / 255))
        assert torch.equal(found, images), norm


def test_it_needs_no_gradient_where_the_attack_needs_none(digits_data: tuple[Tensor, Tensor]) -> None:
    class Opaque(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not images.requires_grad
            value = images.flatten(1).sum(1)
            return torch.stack([torch.zeros_like(value) + 20, value], 1)

    images = digits_data[0][:20]
    goal = sp.Untargeted(Opaque()(images).argmax(1))
    attack = parse("random_noise:draws=3+grid")
    assert attack.access != "gradients"
    found = attack(Opaque(), images, goal, sp.ThreatModel("linf", 0.1))
    assert bool(on_grid(found).all())
    (stage,) = sp.evaluate(Opaque(), images, goal.labels, sp.ThreatModel("linf", 1e-3), attacks=[attack]).stages
    assert stage.forwards == (3 + 1 + 1) * stage.tried, "three draws, one look at the grid, one verification"


def test_what_survives_is_asked_of_the_model_as_it_is_deployed(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:130] for part in digits_data)
    net = nn.Sequential(copy.deepcopy(digits_net), nn.Dropout(0.9)).train()
    with torch.no_grad():
        expected = digits_net((images * 255).round() / 255).argmax(1)
    assert torch.equal(survives_8bit(net, images, sp.Untargeted(labels)), expected != labels)
    assert torch.equal(survives_8bit(net, images, sp.Targeted(labels)), expected == labels)
    assert net.training
    centred = images * 2 - 1
    shifted = survives_8bit(lambda x: digits_net((x + 1) / 2), centred, sp.Targeted(labels), (-1.0, 1.0))
    assert torch.equal(shifted, expected == labels)
