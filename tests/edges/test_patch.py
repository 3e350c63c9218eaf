"""Sticker and patch at their edges: tiny models with known answers, bad input, files; and, slowly, photographs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contract.test_attacks import Lively
from tests.helpers_core import generator, global_random_state, pictures
from torch import Tensor

import sparring as sp
from sparring.attacks import PatchAttack, Sticker, train_sticker
from sparring.errors import InputError
from sparring.perturbations import Patch, Placing
from sparring.perturbations.printing import PROCESS_INKS


def mean_colour(images: Tensor) -> Tensor:
    """One class per channel: the strongest on average."""
    return images.mean((2, 3)) * 40


def photographs(n: int, channels: int = 3, side: int = 24, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Reddish noise."""
    drawn = torch.rand(n, channels, side, side, generator=generator(4))
    drawn[:, 0] = (drawn[:, 0] + 0.12).clamp_max(1)
    return low + (high - low) * drawn


QUICK = {"steps": 40, "batch_size": 4, "area": 0.45}


def test_a_sticker_is_printed_in_the_ink_that_serves_it() -> None:
    """Of all overprints one sets green off best against red and blue; no mixture of them does better."""
    sticker = train_sticker(mean_colour, photographs(4), 1, **QUICK)
    best = max(PROCESS_INKS, key=lambda c: 2 * c[1] - c[0] - c[2])
    seen = (sticker.picture * 255).round()
    middle = seen[:, 4:-4, 4:-4].flatten(1)
    assert float((middle - torch.tensor(best)[:, None]).abs().mean()) < 12
    free = train_sticker(mean_colour, photographs(4), 1, printable=False, **QUICK)
    assert float((free.picture[:, 4:-4, 4:-4].flatten(1) - torch.tensor([0.0, 1.0, 0.0])[:, None]).abs().mean()) < 0.05
    new = photographs(20)[8:]
    clean = float((mean_colour(new).argmax(1) == 1).float().mean())
    assert clean < 0.1
    assert sticker.success(mean_colour, new, target=1) > 0.9
    assert sticker.success(mean_colour, new, target=2) < 0.1


@pytest.mark.parametrize("shape", ["square", "circle"])
def test_a_sticker_changes_one_patch_within_its_area(shape: str) -> None:
    sticker = train_sticker(mean_colour, photographs(2), 2, shape=shape, steps=2, area=0.1)
    images = photographs(40, side=30)
    places = sticker.placing.draw(40, generator(0))
    stuck = sticker.apply(images, places)
    share = (stuck != images).any(1).float().mean((1, 2))
    assert 0.03 < float(share.min()) <= float(share.max()) <= 0.1
    if shape == "circle":  # a round patch needs no turning, so the driver's threat knows it
        assert bool(Patch(0.12, "circle").contains(images, stuck).all())
    straight = Placing(rotation=0).draw(40, generator(0))
    assert bool(Patch(0.1).contains(images, sticker.apply(images, straight)).all()) == (shape == "square")


@pytest.mark.parametrize(("channels", "box"), [(3, (0.0, 1.0)), (1, (-1.0, 1.0)), (3, (-2.0, 3.0)), (2, (0.0, 1.0))])
def test_a_sticker_in_any_box_with_any_channels(channels: int, box: tuple[float, float]) -> None:
    def model(x: Tensor) -> Tensor:
        dark = x.mean((1, 2, 3))
        return torch.stack([dark, -dark], 1) * 9

    images = photographs(3, channels, low=box[0], high=box[1]) * 0.5 + box[1] * 0.5
    sticker = train_sticker(model, images, 1, bounds=box, area=0.3, steps=25, batch_size=2, printable=channels != 2)
    low, high = box
    assert low <= float(sticker.picture.min()) <= float(sticker.picture.max()) <= high
    middle = sticker.picture[:, 3:-3, 3:-3]
    assert float(middle.mean()) < low + 0.2 * (high - low), "black makes it darkest"
    levels = (sticker.picture - low) / (high - low) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", ["square", "circle"])
def test_a_saved_sticker_is_the_one_that_was_measured(shape: str, tmp_path: Path) -> None:
    sticker = train_sticker(mean_colour, photographs(2) * 2 - 1, 1, shape=shape, steps=3, bounds=(-1, 1), area=0.4)
    sticker.save(tmp_path / "sticker.png")
    with Image.open(tmp_path / "sticker.png") as file:
        assert file.mode == "RGBA"
        pixels = np.asarray(file)
    expected = ((sticker.picture + 1) / 2 * 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels[..., :3], expected)
    opaque = (pixels[..., 3] == 255).mean()
    assert opaque == 1 if shape == "square" else abs(opaque - np.pi / 4) < 0.03
    assert set(np.unique(pixels[..., 3])) <= {0, 255}
    grey = Sticker(torch.full((1, 4, 5), 0.2), "square", 0.1, Placing())
    grey.save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as file:
        assert np.asarray(file).tolist() == [[[51, 51, 51, 255]] * 5] * 4


def test_the_same_seed_prints_the_same_sticker() -> None:
    images = photographs(3)
    one, two, other = (train_sticker(mean_colour, images, 1, steps=5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.picture, two.picture)
    assert not torch.equal(one.picture, other.picture)
    assert one.success(mean_colour, images, target=1) == two.success(mean_colour, images, target=1)


def test_success_is_counted_place_by_place() -> None:
    """A model that sees one corner only: the share of places that reach it is known."""

    def corner(images: Tensor) -> Tensor:
        bright = images[:, 0, 0, 0] * 2 - 1
        return torch.stack([-bright, bright], 1)

    sticker = Sticker(torch.ones(1, 3, 3), "square", 0.25, Placing(scale=(1, 1), rotation=0))
    images = torch.zeros(5, 1, 20, 20)
    images[4, 0, 0, 0] = 1  # the target already: left out
    placing = Placing(scale=(1, 1), rotation=0, x=(0, 0), y=(0, 0))
    always = sticker.success(corner, images, target=1, placements=100, placing=placing)
    assert (always, always.n) == (1, 100)
    assert always.low < 0.6, "four photographs, not a hundred"
    never = sticker.success(corner, images, target=1, placements=100, placing=Placing(x=(0.5, 1)))
    assert never == 0
    narrow = Placing(scale=(1, 1), rotation=0, x=(0, 0.1), y=(0, 0))
    hits, trials = sticker.tried(corner, images, target=1, placements=400, placing=narrow)
    assert trials == [100] * 4
    assert 0.3 < sum(hits) / 400 < 0.7  # free are 11 pixels, of which it may lose half a pixel of 1.1
    with pytest.raises(InputError, match="already"):
        sticker.success(corner, images[4:], target=1)


def test_training_leaves_no_trace() -> None:
    model = Lively().train()
    images = pictures(3, 2, 4, 4)
    modes, randomness, before = [m.training for m in model.modules()], global_random_state(), images.clone()
    with torch.no_grad():
        sticker = train_sticker(model, images, 1, steps=2, area=0.5, printable=False)
    sticker.success(model, images, target=_another(model, images), placements=5)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert global_random_state() == randomness
    assert torch.equal(images, before)
    assert not sticker.picture.requires_grad


def _another(model: Lively, images: Tensor) -> int:
    """A class that the model gives to none of the images, or not to all."""
    with torch.no_grad():
        return (int(copy.deepcopy(model).eval()(images).argmax(1)[0]) + 1) % 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": 3},
        {"target": -1},
        {"target": 1.5},
        {"area": 0},
        {"area": 2},
        {"area": 1e-4},
        {"shape": "star"},
        {"steps": 0},
        {"batch_size": 0},
        {"step_size": -1},
        {"seed": -1},
        {"bounds": (1, 0)},
        {"photographs": torch.rand(2, 3, 24)},
        {"photographs": torch.rand(2, 3, 24, 24) * 255},
        {"photographs": torch.rand(0, 3, 24, 24)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_mistake_is_explained(wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"photographs": photographs(2), "target": 1, "steps": 1, **wrong}
    with pytest.raises(InputError):
        train_sticker(mean_colour, given.pop("photographs"), given.pop("target"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Placing(scale=(0.5, 1.2)),
        lambda: Placing(scale=(1, 0.5)),
        lambda: Placing(scale=(0, 1)),
        lambda: Placing(rotation=-1),
        lambda: Placing(rotation=181),
        lambda: Placing(x=(-0.1, 1)),
        lambda: Sticker(torch.ones(1, 3, 3), "square", 0.1, Placing()).apply(
            photographs(3, 1), Placing().draw(2, generator(0))
        ),
    ],
)
def test_a_place_that_is_none_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        wrong()


def test_a_patch_may_cover_everything_or_hang_over_the_edge() -> None:
    images = photographs(3)
    assert bool(Patch(1.0).contains(images, torch.rand_like(images)).all())
    corner = images.clone()
    corner[:, :, :2, -2:] = 0
    assert bool(Patch(0.1, "circle").contains(images, corner).all())
    labels = mean_colour(images).argmax(1)
    found = PatchAttack(steps=3, places=1, proposals=1)(mean_colour, images, sp.Untargeted(labels), Patch(1.0))
    assert bool((mean_colour(found).argmax(1) != labels).all())


def test_the_smallest_patch_is_one_value_wide() -> None:
    images = photographs(2, side=10)
    one = images.clone()
    one[:, :, 3, 3] = 0
    assert bool(Patch("1/100").contains(images, one).all())
    assert not bool(Patch(0.0099).contains(images, one).any())
    two = one.clone()
    two[:, :, 3, 4] = 0
    assert not bool(Patch("1/100").contains(images, two).any())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("toaster", 859)])
def test_the_sticker_on_photographs(name: str, target: int) -> None:
    """Four of five fresh places on the photographs of its training; elsewhere it is measured, not promised."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("skimage")
    model = sp.load_model("imagenet-lite0")
    images = torch.cat([sp.load_image(photo, size=224) for photo in ("chelsea", "coffee", "rocket", "china")])
    sticker = train_sticker(model, images, target)
    assert sticker.area <= 0.1
    assert sticker.success(model, images, target=target, placements=200) >= 0.8, name
