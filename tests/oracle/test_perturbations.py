"""Threats beyond the ball against answers known otherwise: closed forms, brute force, scipy, statistics."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from tests.helpers_core import Linear, digits, generator, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import PatchAttack, WorstOf, universal_perturbation
from sparring.attacks.patch import peaks
from sparring.errors import InputError
from sparring.estimate import clustered_proportion, proportion
from sparring.evaluation import corruption_accuracy, evaluate_union
from sparring.perturbations import RECIPES, Corruptions, Patch, Placing, Spatial, corrupt
from sparring.perturbations.placement import half_side, paint
from sparring.perturbations.printing import PROCESS_INKS, primaries, printed


def spots(spot: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Every place of a spot, also over the edge, as a mask of the picture."""
    h, w = spot.shape
    places = []
    for y, x in itertools.product(range(1 - h, height), range(1 - w, width)):
        wide = np.zeros((height + 2 * h, width + 2 * w), dtype=bool)
        wide[y + h : y + 2 * h, x + w : x + 2 * w] = spot
        places.append(wide[h : h + height, w : w + width])
    return places


# --- patch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["square", "circle"])
@pytest.mark.parametrize("area", [0.0, 0.02, 0.06, 0.1, 0.25, 0.7, 1.0])
def test_a_spot_is_the_largest_that_fits_the_area(shape: str, area: float) -> None:
    for size in ((8, 8), (6, 11), (1, 9)):
        spot = Patch(area, shape).spot(size)
        assert int(spot.sum()) <= area * size[0] * size[1] + 1e-9
        if shape == "square":
            side = spot.shape[0]
            assert (side + 1) ** 2 > area * size[0] * size[1] or side == min(size)
        elif spot.numel():
            assert torch.equal(spot, spot.T)
            assert torch.equal(spot, spot.flip(0))


@pytest.mark.parametrize("shape", ["square", "circle"])
def test_a_patch_is_recognised_as_brute_force_does(shape: str) -> None:
    """Random handfuls of changed pixels, close together and apart."""
    threat, size = Patch(0.22, shape), (7, 9)  # 13 pixels: a diamond-like disc, or 3 x 3
    masks = spots(threat.spot(size).numpy(), *size)
    draws, verdicts = np.random.default_rng(0), set()
    original = pictures(1, 2, *size)
    for _ in range(150):
        reach = draws.integers(1, 6)
        corner = draws.integers(0, [size[0], size[1]])
        points = (corner + draws.integers(0, reach, (draws.integers(0, 9), 2))) % size
        changed = np.zeros(size, dtype=bool)
        changed[points[:, 0], points[:, 1]] = True
        candidate = original.clone()
        channel = draws.integers(0, 2)
        candidate[0, channel][torch.from_numpy(changed)] = 1 - candidate[0, channel][torch.from_numpy(changed)]
        changed = (candidate != original)[0].any(0).numpy()
        expected = any((changed <= mask).all() for mask in masks)
        assert bool(threat.contains(original, candidate)) == expected
        assert float(threat.distance(original, candidate)) == pytest.approx(changed.mean())
        verdicts.add(expected)
    assert verdicts == {True, False}


def test_a_patch_stays_in_the_box() -> None:
    original = pictures(3, 1, 4, 4) * 2 - 1
    candidate = original.clone()
    candidate[0, 0, 0, 0], candidate[1, 0, 0, 0], candidate[2, 0, 0, 0] = 1.01, torch.nan, -1.0
    assert Patch(0.1, bounds=(-1, 1)).contains(original, candidate).tolist() == [False, False, True]


@pytest.mark.parametrize("shape", ["square", "circle"])
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_the_best_patch_on_a_linear_model(shape: str, goal: str) -> None:
    """With two classes the margin is linear: what a place can gain is a sum over its pixels, and all places are few."""
    images = pictures(60, 2, 12, 13, dtype=torch.float64)
    model = Linear(312, 2, dtype=torch.float64)
    threat = Patch(0.035, shape)
    with torch.no_grad():
        labels = model(images).argmax(1)
    slope = (model.weight[1] - model.weight[0]).detach() * torch.where(labels == 0, 1.0, -1.0)[:, None]
    slope = slope.view_as(images)
    gain = torch.where(slope > 0, slope * (1 - images), -slope * images).sum(1).numpy()
    masks = [mask for mask in spots(threat.spot((12, 13)).numpy(), 12, 13) if mask.sum() == threat.spot((12, 13)).sum()]
    most = np.array([max(float(g[mask].sum()) for mask in masks) for g in gain])
    margin = (model(images).gather(1, labels[:, None]) - model(images).gather(1, 1 - labels[:, None])).squeeze(1)
    breakable = torch.from_numpy(most) > margin.detach()
    assert 5 < int(breakable.sum()) < 55
    aim = sp.Untargeted(labels) if goal == "untargeted" else sp.Targeted(1 - labels)
    found = PatchAttack(steps=3, places=1, proposals=1)(model, images, aim, threat)
    assert bool(threat.contains(images, found).all())
    assert torch.equal(aim.is_met(model(found)), breakable)


@pytest.fixture
def net(digits_net: nn.Module) -> nn.Module:
    return digits_net


@pytest.fixture
def data(digits_data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = digits_data
    return images[:100], labels[:100]


def test_the_search_for_a_place_comes_close_to_trying_all(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:60] for part in data)

    def robust(places: int, proposals: int) -> float:
        attack = PatchAttack(steps=8, places=places, proposals=proposals)
        return float(sp.evaluate(net, images, labels, Patch(4 / 64), attacks=[attack]).robust_accuracy)

    every, few, tried, one = robust(49, 49), robust(2, 49), robust(1, 49), robust(1, 1)  # 2 x 2 has 49 places
    assert every <= few <= every + 0.05
    assert few <= tried < one - 0.05, "the place matters"


def test_solved_images_leave_and_the_others_get_every_place(net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    attack = PatchAttack(steps=3, places=2, proposals=2)
    records = sp.evaluate(net, *digits_data, Patch(4 / 64), attacks=[attack]).records
    standing = [r for r in records if r.prediction == r.label and r.broken_by is None]
    fallen = [r for r in records if r.broken_by]
    assert {(r.forwards, r.backwards) for r in standing} == {(1 + 1 + 2 + 2 * 4 + 1, 1 + 2 * 3)}
    assert min(r.backwards for r in fallen) == 1, "by a proposal"
    assert max(r.backwards for r in fallen) > 4, "by another place than the first"


def test_a_place_is_chosen_by_what_it_gains_not_by_what_it_promises() -> None:
    """One corner has the steepest slope and soon gives no more; the other pays, once painted in more than one step."""

    def model(x: Tensor) -> Tensor:
        steep = 2 * torch.tanh(3 * x[:, 0, :2, :2].mean((1, 2)))
        p = x[:, 0, 5:7, 5:7].flatten(1)
        worth = p[:, :3].sum(1) + 2 * p[:, 0] * p[:, 3] - 0.1 * p[:, 3]
        return torch.stack([torch.full_like(worth, 4.0), steep + worth], 1)

    image, aim = torch.zeros(1, 1, 8, 8), sp.Untargeted(torch.tensor([0]))
    for proposals, solved in ((1, False), (49, True)):
        found = PatchAttack(steps=5, places=1, proposals=proposals)(model, image, aim, Patch(4 / 64))
        assert bool(aim.is_met(model(found))) == solved


def test_peaks_are_apart() -> None:
    score = torch.zeros(1, 9, 9)
    score[0, 1:4, 1:4], score[0, 2, 2] = torch.tensor([5.0]), 6.0
    score[0, 7, 7], score[0, 0, 8] = 3.0, 1.0
    spot = torch.Size([3, 3])
    first, second, third, fourth = ((int(p) // 9, int(p) % 9) for p in peaks(score, spot, 4)[0])
    assert (first, second) == ((2, 2), (7, 7))
    assert third == (0, 8)
    assert score[0][fourth] == 0, "the shoulder of the first comes after all that is apart"
    every = peaks(score, spot, 200)
    assert sorted(every[0].tolist()) == list(range(81))


def test_more_area_never_hurts_the_attacker(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    robust = [
        float(sp.evaluate(net, *data, Patch(pixels / 64), attacks=["patch:steps=8"]).robust_accuracy)
        for pixels in (0, 1, 4, 9)
    ]
    clean = float((net(data[0]).argmax(1) == data[1]).double().mean())
    assert robust[0] == pytest.approx(clean)
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < 0.1


# --- where a sticker lies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["square", "circle"])
@pytest.mark.parametrize("size", [(40, 40), (24, 56)])
def test_a_sticker_covers_no_more_than_its_area_and_stays_whole(shape: str, size: tuple[int, int]) -> None:
    placing = Placing(scale=(0.6, 1.0), rotation=180)
    places = placing.draw(300, generator(0))
    painted = paint(torch.zeros(300, 1, *size), torch.ones(1, 5, 5), places, area=0.1, shape=shape)[:, 0]
    shares = painted.mean((1, 2))
    assert float(shares.max()) <= 0.1
    assert float(shares[places.scale > 0.99].min()) > 0.075
    half = half_side(0.1, shape, size)
    ideal = (4 if shape == "square" else math.pi) * (half * places.scale) ** 2 / (size[0] * size[1])
    assert float((shares - ideal).abs().max()) < 0.02, "none hangs over the edge"
    torch.testing.assert_close(shares.mean(), ideal.mean(), rtol=0.02, atol=0)
    centres = torch.stack(
        [
            (painted * torch.arange(side).float().view(shape_)).sum((1, 2)) / painted.sum((1, 2))
            for side, shape_ in ((size[1], (1, -1)), (size[0], (-1, 1)))
        ],
        1,
    )
    assert bool((centres.amin(0) < torch.tensor([size[1], size[0]]) * 0.25).all())
    assert bool((centres.amax(0) > torch.tensor([size[1], size[0]]) * 0.75).all())


def test_a_sticker_is_turned_and_shifted_as_it_should() -> None:
    """Four coloured quarters; their middles are where plane geometry puts them."""
    picture = torch.zeros(4, 2, 2)
    picture[0, 0, 0] = picture[1, 0, 1] = picture[2, 1, 0] = picture[3, 1, 1] = 1
    size, angle = (60, 90), math.radians(30)
    places = Placing(rotation=30, scale=(1, 1)).draw(1, generator(3))
    places.angle[0], places.centre[0] = angle, torch.tensor([0.25, 1.0])
    painted = paint(torch.zeros(1, 4, *size), picture, places, area=0.1, shape="square")[0]
    half = half_side(0.1, "square", size)
    reach = half * (math.cos(angle) + math.sin(angle))
    middle = np.array([reach + 0.25 * (90 - 2 * reach), 60 - reach])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    for channel, corner in enumerate(([-1, -1], [1, -1], [-1, 1], [1, 1])):
        rows, columns = (painted[channel] > 0.9).nonzero(as_tuple=True)
        expected = middle + turn @ (np.array(corner) * half * 0.75)  # pure colour fills the outer quarter
        found = np.array([float(columns.float().mean()) + 0.5, float(rows.float().mean()) + 0.5])
        np.testing.assert_allclose(found, expected, atol=1.0)


def test_a_sticker_on_its_corner_stays_whole() -> None:
    for x, y in itertools.product((0.0, 1.0), repeat=2):
        places = Placing(scale=(1, 1)).draw(1, generator(0))
        places.angle[0], places.centre[0] = math.radians(45), torch.tensor([x, y])
        painted = paint(torch.zeros(1, 1, 60, 80), torch.ones(1, 3, 3), places, area=0.1, shape="square")[0, 0]
        rows, columns = (painted.amax(axis).nonzero().flatten() for axis in (1, 0))
        wide = 2 * math.sqrt(2) * half_side(0.1, "square", (60, 80))
        assert abs(len(columns) - wide) < 2
        assert abs(len(rows) - wide) < 2
        assert abs(float(columns[-1 if x else 0]) - 79 * x) <= 1, "it touches the edge"
        assert abs(float(rows[-1 if y else 0]) - 59 * y) <= 1


def test_paint_is_differentiable_where_it_is_seen() -> None:
    picture = torch.rand(3, 9, 9, generator=generator(1), dtype=torch.float64).requires_grad_()
    images = pictures(2, 3, 20, 20, dtype=torch.float64)
    places = Placing().draw(2, generator(2))
    weights = torch.rand(2, 3, 20, 20, generator=generator(3), dtype=torch.float64)

    def seen(p: Tensor) -> Tensor:
        return (paint(images, p, places, area=0.2, shape="circle") * weights).sum()

    assert torch.autograd.gradcheck(seen, (picture,))
    (grad,) = torch.autograd.grad(seen(picture), picture)
    assert float(grad[:, 4, 4].abs().min()) > 0


def test_printed_colours() -> None:
    """Full coverage gives the measured primaries, half coverage the mean of their light, nothing leaves their hull."""
    colours = primaries(3)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).flip(1)  # the first ink fastest
    shown = printed(corners.T[:, None], colours)[:, 0].T
    torch.testing.assert_close(shown, torch.tensor(PROCESS_INKS) / 255, rtol=0, atol=1e-5)
    half_black = printed(torch.full((3, 1, 1), 0.5), colours).flatten()
    light = ((colours + 0.055) / 1.055) ** 2.4
    torch.testing.assert_close(((half_black + 0.055) / 1.055) ** 2.4, light.mean(0), rtol=1e-3, atol=1e-3)
    shown = printed(torch.rand(3, 30, 30, generator=generator(0)), colours)
    assert float(shown.min()) >= float(colours.min())
    assert bool((shown[0] <= 1).all())
    assert float((shown[0] - shown[1]).max()) < 1 - 0.1, "no pure red comes out of a printer"
    assert primaries(1).tolist() == [[1.0], [pytest.approx(28 / 255)]]
    free = printed(torch.rand(2, 5, 5, generator=generator(0)).round(), primaries(2, printable=False))
    assert set(free.flatten().round(decimals=5).tolist()) == {0.0, 1.0}


def test_the_interval_of_clustered_trials_covers() -> None:
    """Shares that differ between photographs: the plain interval is far too narrow, the clustered one is not."""
    draws = np.random.default_rng(0)
    right = naive = 0
    for _ in range(200):
        shares = draws.beta(2, 1, size=8)
        hits = draws.binomial(25, shares).tolist()
        found = clustered_proportion(hits, [25] * 8)
        right += found.low <= 2 / 3 <= found.high
        plain = proportion(sum(hits), 200)
        naive += plain.low <= 2 / 3 <= plain.high
    assert right / 200 > 0.93
    assert naive / 200 < 0.7
    assert clustered_proportion([20] * 5, [20] * 5).low < 0.6, "five photographs, not a hundred"
    assert clustered_proportion([3], [4]).high > 0.98
    with pytest.raises(InputError):
        clustered_proportion([5], [4])


# --- turned and shifted ---------------------------------------------------------------------------------------------


def test_turning_agrees_with_scipy() -> None:
    """`ndimage.affine_transform` about the middle of the picture, first order, zeros outside."""
    threat = Spatial(rotation=40, translation=0.2, turns=5, shifts=5)
    grid = threat.grid()
    image = pictures(1, 2, 9, 14, dtype=torch.float64)
    for change in (0, 7, 31, 62, 77, 100, 124):
        angle, right, down = grid[change].tolist()
        turn, x, y = math.radians(40 * angle), right * 0.2 * 14, down * 0.2 * 9
        inverse = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])  # rows, columns
        middle = np.array([4.0, 6.5])
        offset = middle - inverse @ (middle + np.array([y, x]))
        expected = np.stack(
            [ndimage.affine_transform(p, inverse, offset, order=1, mode="grid-constant") for p in image[0].numpy()]
        )
        found = threat.apply(image, torch.tensor([change]))[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_quarter_turns_and_whole_shifts_are_exact() -> None:
    image = pictures(1, 1, 6, 6, dtype=torch.float64)
    turned = Spatial(rotation=90, translation=0, turns=3, shifts=1)
    assert len(turned.costs()) == 3
    quarter = turned.apply(image.expand(2, -1, -1, -1), torch.tensor([0, 2]))
    torch.testing.assert_close(quarter[0], image[0].rot90(1, (1, 2)), rtol=0, atol=1e-9)
    torch.testing.assert_close(quarter[1], image[0].rot90(-1, (1, 2)), rtol=0, atol=1e-9)
    shifted = Spatial(rotation=0, translation=1 / 3, turns=9, shifts=3, bounds=(-1, 1))
    assert len(shifted.costs()) == 9, "without a turn there are no angles"
    right = int(((shifted.grid() - torch.tensor([0.0, 1.0, 0.0])).abs().sum(1) == 0).nonzero())
    expected = torch.full_like(image, -1.0)  # what comes in is the lower bound of the box
    expected[..., 2:] = image[..., :4]
    torch.testing.assert_close(shifted.apply(image, torch.tensor([right])), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 31)])
def test_every_change_is_recognised_with_its_cost(shape: tuple[int, ...]) -> None:
    threat = Spatial(turns=7, shifts=3)
    images = pictures(1, *shape, seed=4).expand(63, *shape)
    made = threat.apply(images, torch.arange(63))
    assert bool(threat.contains(images, made).all())
    torch.testing.assert_close(threat.distance(images, made), threat.costs())
    for spoilt in (made + 2e-4, made.flip(3), made * 0.99, torch.where(made > 0.5, torch.nan, made)):
        assert not bool(threat.contains(images, spoilt.clamp(0, 1)).any())
    speck = made.clone()
    speck[:, 0, 2, 3] = 1 - speck[:, 0, 2, 3].round()
    assert not bool(threat.contains(images, speck).any()), "one pixel besides is another threat"
    off_grid = Spatial(rotation=29, turns=7, shifts=3).apply(images[:1], torch.tensor([0]))
    assert not bool(threat.contains(images[:1], off_grid))
    other = Spatial(turns=7, shifts=3, padding="border").apply(images[:1], torch.tensor([0]))
    assert not bool(threat.contains(images[:1], other))


def test_the_cheapest_of_several_changes_counts() -> None:
    """Stripes: shifted down they look the same wherever they were shifted sideways."""
    image = torch.rand(1, 1, 8, 1, generator=generator(0)).expand(1, 1, 8, 8).contiguous()
    threat = Spatial(rotation=0, translation=0.25, shifts=5, padding="border")
    made = threat.apply(image.expand(25, -1, -1, -1), torch.arange(25))
    torch.testing.assert_close(threat.distance(image.expand(25, -1, -1, -1), made), threat.grid()[:, 2].abs())


def test_a_picture_of_one_colour_costs_nothing() -> None:
    flat = torch.zeros(2, 1, 8, 8)
    threat = Spatial(turns=3, shifts=3)
    assert threat.distance(flat, flat).tolist() == [0, 0]
    assert threat.distance(flat, threat.apply(flat, torch.tensor([0, 26]))).tolist() == [0, 0]


def test_trying_all_finds_the_worst(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    images, labels = data
    threat = Spatial(rotation=15, translation=0.03, turns=5, shifts=3)
    with torch.no_grad():
        every = torch.stack([net(threat.apply(images, torch.full((100,), g))).argmax(1) for g in range(45)])
    robust = (every == labels).all(0)
    found = sp.evaluate(net, images, labels, threat, attacks=[WorstOf()])
    assert 0.02 < float(robust.double().mean()) < 0.9
    assert found.robust_accuracy == pytest.approx(float(robust.double().mean()))
    assert found.stages[0].rejected == 0
    ten = sp.evaluate(net, images, labels, threat, attacks=[WorstOf(draws=10)]).robust_accuracy
    one = sp.evaluate(net, images, labels, threat, attacks=[WorstOf(draws=1)]).robust_accuracy
    assert found.robust_accuracy <= ten < one


# --- corruptions ----------------------------------------------------------------------------------------------------

GREY = torch.full((1, 3, 96, 96), 0.5, dtype=torch.float64)


def test_noise_has_the_strength_of_the_paper() -> None:
    for severity, sigma in enumerate((0.08, 0.12, 0.18), start=1):
        assert float((corrupt(GREY, "gaussian_noise", severity) - 0.5).std()) == pytest.approx(sigma, rel=0.02)
    for severity, photons in enumerate((60, 25, 12, 5, 3), start=1):
        counts = RECIPES["shot_noise"](GREY, severity, streams("shot")) * photons
        torch.testing.assert_close(counts, counts.round())
        assert float(counts.mean()) == pytest.approx(photons / 2, rel=0.02)
        assert float(counts.var()) == pytest.approx(photons / 2, rel=0.04)
    for severity, amount in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), start=1):
        noisy = corrupt(GREY, "impulse_noise", severity)
        assert float((noisy == 1).double().mean()) == pytest.approx(amount / 2, rel=0.1)
        assert float((noisy == 0).double().mean()) == pytest.approx(amount / 2, rel=0.1)
    black = RECIPES["shot_noise"](torch.zeros(1, 1, 4, 4), 5, streams("shot"))
    assert float(black.abs().max()) == 0


def streams(purpose: str) -> sp.rng.Streams:
    return sp.rng.Streams(0, purpose, [b"x"])


def test_blur_is_a_mean_of_neighbours() -> None:
    spike = torch.zeros(1, 1, 224, 224)
    spike[0, 0, 112, 112] = 1
    y, x = torch.meshgrid(*[torch.arange(224.0, dtype=torch.float64) - 112] * 2, indexing="ij")
    for severity, radius in ((1, 3), (3, 6), (5, 10)):
        blurred = corrupt(spike, "defocus_blur", severity)[0, 0].double()
        assert float(blurred.sum()) == pytest.approx(1, abs=1e-4)
        inside = (x**2 + y**2).sqrt() <= radius - 1.5
        torch.testing.assert_close(
            blurred[inside].mean(), torch.tensor(1 / (math.pi * radius**2)).double(), rtol=0.02, atol=0
        )
        assert float(blurred[(x**2 + y**2).sqrt() > radius + 1.5].abs().max()) == 0
        moved = corrupt(spike, "motion_blur", severity)[0, 0].double()
        assert float(moved.sum()) == pytest.approx(1, abs=1e-4)
        centre = torch.stack([(moved * x).sum(), (moved * y).sum()])
        spread = torch.stack([(moved * x * x).sum(), (moved * x * y).sum(), (moved * y * y).sum()])
        matrix = np.array([[spread[0], spread[1]], [spread[1], spread[2]]]) - np.outer(centre, centre)
        long, short = sorted(np.linalg.eigvalsh(matrix), reverse=True)
        assert long > 8 * short, "along a line"
        assert abs(float(centre[0])) > abs(float(centre[1])), "at most 45 degrees from level"
    flat = torch.full((1, 1, 5, 9), 0.3)
    for name in ("defocus_blur", "motion_blur", "pixelate"):
        torch.testing.assert_close(corrupt(flat, name, 5), flat)


def test_light_and_files() -> None:
    images = pictures(3, 3, 16, 16, seed=2)
    value = images.amax(1)
    brighter = corrupt(images, "brightness", 2)
    torch.testing.assert_close(brighter.amax(1), (value + 0.2).clamp_max(1))
    shade = (images > 0).all(1, keepdim=True)
    torch.testing.assert_close(
        ((brighter / value[:, None]) * shade).nan_to_num(),
        ((images / value[:, None]) * (brighter.amax(1, keepdim=True) / value[:, None]) * shade / 1).nan_to_num(),
    )
    paler = corrupt(images, "contrast", 4)
    torch.testing.assert_close(paler.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(paler.std((2, 3)), images.std((2, 3)) * 0.1)
    saved = corrupt(images, "jpeg", 1)
    for image, found in zip(images, saved, strict=True):
        stream = io.BytesIO()
        Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(
            stream, "JPEG", quality=25
        )
        expected = np.asarray(Image.open(stream)).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    small = corrupt(images, "pixelate", 2)
    torch.testing.assert_close(small[:, :, ::2, ::2], torch.nn.functional.avg_pool2d(images, 2))
    foggy = corrupt(torch.zeros(1, 1, 32, 32) + torch.eye(32), "fog", 3)
    assert float(foggy.max()) <= 1
    assert float(foggy.std()) < 0.9 * float(torch.eye(32).std())


@pytest.mark.parametrize("name", RECIPES)
def test_a_corruption_suits_any_size_and_grows(name: str) -> None:
    smooth = ndimage.zoom(np.random.default_rng(0).random((12, 3, 5, 5)), (1, 1, 12, 12), order=1)
    images = torch.from_numpy(smooth.clip(0, 1)).float()
    far = [float((corrupt(images, name, severity) - images).square().mean()) for severity in range(1, 6)]
    assert 0 < far[0] < far[4]
    assert name == "fog" or far == sorted(far), "fog gets thicker and finer"
    for shape in ((1, 8, 8), (3, 1, 1), (2, 1, 7), (5, 6, 4)):
        for dtype in (torch.float32, torch.float64):
            found = corrupt(pictures(2, *shape, dtype=dtype), name, 5)
            assert found.shape == (2, *shape)
            assert found.dtype == dtype
            assert bool(found.isfinite().all())
            assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_corruption_is_the_same_whenever_it_is_made(name: str) -> None:
    images = pictures(6, 3, 9, 9)
    before, whole = images.clone(), corrupt(images, name, 3)
    assert torch.equal(images, before)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(corrupt(images[order], name, 3), whole[order], rtol=0, atol=1e-6)
    torch.testing.assert_close(corrupt(images[2:3], name, 3), whole[2:3], rtol=0, atol=1e-6)
    shifted = corrupt(images * 2 - 1, name, 3, bounds=(-1.0, 1.0))
    random = name in ("gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog")
    assert random == (not torch.equal(corrupt(images, name, 3, seed=1), whole))
    if not random:
        torch.testing.assert_close(shifted, whole * 2 - 1, rtol=0, atol=1e-5)


def test_corruptions_as_a_threat(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:60] for part in data)
    threat = Corruptions(severity=2, names=["gaussian_noise", "contrast", "jpeg"])
    made = threat.apply(images, torch.arange(60) % 6)
    assert bool(threat.contains(images, made).all())
    assert threat.distance(images, made).tolist() == [1, 1, 1, 2, 2, 2] * 10
    assert not bool(Corruptions(severity=2, names=["fog"]).contains(images, made).any())
    again = Corruptions(severity=2, names=["gaussian_noise"], seed=1)
    assert not bool(again.contains(images[:1], made[:1])), "another seed is another picture"
    assert not bool(Corruptions(severity=1).contains(images[3:], made[3:])[::6].any()), "too severe"
    with torch.no_grad():
        every = torch.stack([net(threat.apply(images, torch.full((60,), g))).argmax(1) == labels for g in range(6)])
    robust = (every.all(0) & (net(images).argmax(1) == labels)).double().mean()
    found = sp.evaluate(net, images, labels, threat)
    assert found.robust_accuracy == pytest.approx(float(robust))
    table = corruption_accuracy(net, images, labels, names=["gaussian_noise", "contrast", "jpeg"], severities=(1, 2))
    for number, cell in enumerate(threat.changes()):
        assert table.cells[cell] == pytest.approx(float(every[number].double().mean()))
    assert table.mean == pytest.approx(float(every.double().mean()))
    assert table.clean == pytest.approx(float((net(images).argmax(1) == labels).double().mean()))
    assert "contrast" in str(table)
    assert found.robust_accuracy <= min(table.cells.values())


# --- universal and union --------------------------------------------------------------------------------------------


def test_the_universal_perturbation_of_a_linear_model() -> None:
    """Images of one class: the one delta that helps them all is eps·sign(w), as for each alone (no box in the way)."""
    images = pictures(80, 1, 5, 5, dtype=torch.float64) * 0.4 + 0.3
    model = Linear(25, 2, dtype=torch.float64)
    with torch.no_grad():
        labels = model(images).argmax(1)
    images, labels = images[labels == 0], labels[labels == 0]
    threat = sp.ThreatModel("linf", 0.03)
    slope = (model.weight[1] - model.weight[0]).detach()
    found = universal_perturbation(model, images, labels, threat)
    torch.testing.assert_close(found.delta.flatten(), 0.03 * slope.sign())
    logits = model(images)
    margin = (logits[:, 0] - logits[:, 1]).detach()
    expected = (margin < 0.03 * slope.abs().sum()).double().mean()
    assert 0.1 < float(expected) < 0.95
    assert found.fooling_rate(model, images) == pytest.approx(float(expected))
    assert found.fooling_rate(model, images, target=1) == pytest.approx(float(expected))
    assert found.fooling_rate(model, images, target=0).n == 0


@pytest.mark.parametrize(
    ("norm", "eps", "least"), [("linf", 0.2, 0.35), ("l2", 1.2, 0.3), ("l1", 5, 0.3), ("l0", 8, 0.3)]
)
def test_a_universal_perturbation_fools_images_it_has_not_seen(
    norm: str, eps: float, least: float, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:200] for part in digits())
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[0] = False
    threat = sp.ThreatModel(norm, eps, mask=mask)

    def watched(x: Tensor) -> Tensor:
        assert 0 <= float(x.detach().min()) <= float(x.detach().max()) <= 1, "the model is shown what will be applied"
        return net(x)

    found = universal_perturbation(watched, images, labels, threat)
    held_out = data[0]
    assert bool(threat.contains(held_out, found.apply(held_out)).all())
    assert float(found.delta[0, 0].abs().max()) == 0
    assert found.fooling_rate(net, held_out).low > least
    noise = torch.rand(found.delta.shape, generator=generator(0)) - 0.5
    random = type(found)(threat.around(torch.zeros(1, 1, 8, 8) + 0.5).project(0.5 + 9 * noise[None])[0] - 0.5, threat)
    assert random.fooling_rate(net, held_out) < found.fooling_rate(net, held_out)
    target = universal_perturbation(net, images, labels, threat, target=8)
    assert target.fooling_rate(net, held_out, target=8) > 1.5 * found.fooling_rate(net, held_out, target=1)
    same = universal_perturbation(net, images, labels, threat)
    assert torch.equal(same.delta, found.delta)


def test_a_perturbation_that_leaves_the_budget_does_not_count(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    found = universal_perturbation(net, *data, sp.ThreatModel("linf", 0.3), epochs=2)
    assert found.fooling_rate(net, data[0]) > 0.3
    claimed = type(found)(found.delta, sp.ThreatModel("linf", 0.2))
    assert claimed.fooling_rate(net, data[0]) < 0.05


def test_the_union_is_the_worst_per_image(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    threats = [
        sp.ThreatModel("linf", 0.07),
        Patch(1 / 64),
        Spatial(rotation=10, translation=0.03, turns=3),
    ]
    attacks = [["pgd:steps=5"], ["patch:steps=4"], None]
    union = evaluate_union(net, *data, threats, attacks=attacks, effort="quick")
    alone = [sp.evaluate(net, *data, t, attacks=a, effort="quick") for t, a in zip(threats, attacks, strict=True)]
    standing = [[r.prediction == r.label and r.broken_by is None for r in e.records] for e in alone]
    expected = np.array(standing).all(0)
    assert list(union.robust) == expected.tolist()
    assert union.robust_accuracy == pytest.approx(expected.mean())
    assert union.robust_accuracy.n == 100
    assert list(union.per_threat.values()) == [e.robust_accuracy for e in alone]
    assert list(union.per_threat) == [str(threat) for threat in threats]
    assert union.robust_accuracy < min(union.per_threat.values()), "the threats break different images"
    assert union.clean_accuracy == alone[0].clean_accuracy
    for bad in ({"threats": []}, {"threats": [threats[0]] * 2}, {"threats": threats, "attacks": [None]}):
        with pytest.raises(InputError):
            evaluate_union(net, *data, **bad)
