"""The contract every transform keeps, and what independent implementations say."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers_core import generator, global_random_state, pictures
from torch import Tensor
from torch.nn.functional import interpolate

from sparring.defenses.transforms import (
    JPEG,
    TRANSFORMS,
    BitDepth,
    Chain,
    Colour8,
    GaussianBlur,
    Median,
    Noise,
    NonLocalMeans,
    ResizeBack,
    ResizePad,
    TotalVariation,
    Transform,
    parse,
)
from sparring.defenses.transforms.resampling import back_again, resampler
from sparring.errors import InputError, MissingExtraError
from sparring.rng import Streams, digests

CHEAP = {"non_local_means": NonLocalMeans(search=3), "total_variation": TotalVariation(steps=3)}
ALL = [pytest.param(CHEAP.get(name, kind()), id=name) for name, kind in TRANSFORMS.items()]
ALL.append(pytest.param(Chain((BitDepth(bits=3), Noise(), Median())), id="chain"))
BAD = ["", "jpg", "jpeg+", "jpeg:quality", "jpeg:quality=0", "jpeg:quality=96", "jpeg:quality=1.5", "jpeg:q=3"]
BAD += ["median:size=1", "bit_depth:bits=9", "noise:std=-1", "resize_pad:smallest=0", "total_variation:weight=0"]
BAD += [
    "resize_back:smallest=2,largest=1",
    "non_local_means:search=4",
    "gaussian_blur:sigma=0",
    "gaussian_blur:sigma=65",
]
SHAPES = [(1, 1, 1), (3, 1, 1), (1, 2, 5), (3, 7, 4), (2, 5, 5), (1, 28, 28)]


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_shape_dtype_and_range(transform: Transform, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = pictures(3, *shape, dtype=dtype)
    before, state = images.clone(), global_random_state()
    out = transform(images, generator=generator(1))
    assert (out.shape, out.dtype) == (images.shape, dtype)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert torch.equal(images, before)
    assert global_random_state() == state


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_large_pictures(transform: Transform, channels: int) -> None:
    out = transform(pictures(1, channels, 512, 512))
    assert out.shape == (1, channels, 512, 512)


@pytest.mark.parametrize("transform", ALL)
def test_an_image_comes_out_the_same_whatever_its_batch(transform: Transform) -> None:
    images = pictures(9, 3, 8, 6)
    whole = transform(images, generator=generator(3))
    order = torch.tensor([4, 0, 8, 1, 3, 2, 7, 6, 5])
    torch.testing.assert_close(transform(images[order], generator=generator(3)), whole[order], rtol=0, atol=1e-6)
    alone = torch.cat([transform(images[i : i + 1], generator=generator(3)) for i in range(9)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("transform", ALL)
def test_random_if_and_only_if_declared(transform: Transform) -> None:
    images = pictures(6, 1, 12, 12)
    first, again, other = (transform(images, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != transform.random
    if transform.random:
        assert not torch.equal(transform(images[:1].expand(2, -1, -1, -1), generator=generator(1))[0], first[1])


def drawn(transform: Transform, images: Tensor) -> object:
    return transform.draw(images, Streams(0, "test", digests(images)))


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("gradient", ["declared", "identity"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_attackers_pass_has_the_true_value_and_a_gradient(
    transform: Transform, gradient: str, channels: int
) -> None:
    images = pictures(4, channels, 8, 8)
    randomness = drawn(transform, images)
    x = images.clone().requires_grad_()
    out = transform.passed(x, randomness, gradient)
    assert torch.equal(out.detach(), transform.run(images, randomness))
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert bool(grad.isfinite().all())
    assert bool(grad.flatten(1).any(1).all())
    if gradient == "identity" and not isinstance(transform, Chain):
        assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("transform", [p for p in ALL if p.values[0].gradient == "exact"])
def test_a_gradient_declared_exact_is_that_of_the_transform(transform: Transform) -> None:
    images = 0.3 + 0.4 * pictures(2, 1, 5, 5, dtype=torch.float64)
    randomness = drawn(transform, images)
    assert torch.autograd.gradcheck(lambda x: transform.passed(x, randomness), images.requires_grad_(), eps=1e-7)


@pytest.mark.parametrize("transform", ALL)
def test_text_round_trips(transform: Transform) -> None:
    assert parse(str(transform)) == transform


@pytest.mark.parametrize(
    ("text", "transform"),
    [
        ("jpeg:quality=40", JPEG(quality=40)),
        ("bit_depth:bits=3+median", Chain((BitDepth(bits=3), Median()))),
        (" noise : std = 8/255 ", Noise(std=8 / 255)),
    ],
)
def test_text_becomes_the_transform(text: str, transform: Transform) -> None:
    assert parse(text) == transform


@pytest.mark.parametrize("text", BAD)
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_an_unknown_name_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="did you mean 'jpeg'"):
        parse("jpg")
    for wrong in (3, None, ["jpeg"]):
        with pytest.raises(InputError):
            parse(wrong)
    for parts in ((), ("jpeg",), None):
        with pytest.raises(InputError):
            Chain(parts)


@pytest.mark.parametrize("bad", [pictures(2, 1, 4, 4) * 255, pictures(2, 1, 4, 4).mul(255).byte(), pictures(2, 16)])
def test_other_pictures_are_refused(bad: Tensor) -> None:
    with pytest.raises(InputError):
        Median()(bad)


def test_every_transform_names_its_paper_and_cannot_be_changed() -> None:
    for kind in TRANSFORMS.values():
        assert kind.paper
        with pytest.raises(AttributeError):
            kind().anything = 1


def per_plane(images: Tensor, function: object) -> np.ndarray:
    return np.stack([[function(plane) for plane in image] for image in images.numpy()])


def test_median_and_blur_are_scipys() -> None:
    from scipy import ndimage

    images = pictures(3, 2, 9, 7)
    for size in (2, 3, 4):
        expected = per_plane(images, lambda plane, size=size: ndimage.median_filter(plane, size, mode="reflect"))
        assert np.array_equal(Median(size=size)(images).numpy(), expected), size
    expected = per_plane(images, lambda plane: ndimage.gaussian_filter(plane, 1.3, mode="reflect"))
    np.testing.assert_allclose(GaussianBlur(sigma=1.3)(images).numpy(), expected, atol=1e-6)


def test_denoisers_are_scikit_images() -> None:
    from skimage.restoration import denoise_tv_chambolle

    images = pictures(2, 1, 12, 9)
    expected = per_plane(images, lambda plane: denoise_tv_chambolle(plane, 0.1, eps=0, max_num_iter=31))
    np.testing.assert_allclose(TotalVariation(steps=30)(images).numpy(), expected, atol=1e-5)


def test_non_local_means_by_the_formula() -> None:
    images, h = pictures(2, 3, 6, 5, dtype=torch.float64), 60 / 255
    found = NonLocalMeans(search=3, patch=3, strength=60)(images)
    wide = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="symmetric")
    n, i, j = 1, 4, 0

    def patch(a: int, b: int) -> np.ndarray:
        return wide[n, :, a + 1 : a + 4, b + 1 : b + 4]

    around = [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    weights = [np.exp(-((patch(a, b) - patch(i, j)) ** 2).mean() / h**2) for a, b in around]
    expected = sum(w * wide[n, :, a + 2, b + 2] for w, (a, b) in zip(weights, around, strict=True)) / sum(weights)
    np.testing.assert_allclose(found[n, :, i, j].numpy(), expected, atol=1e-12)


def test_levels() -> None:
    images = pictures(2, 3, 6, 6)
    assert len(BitDepth(bits=2)(images).unique()) == 4
    assert len(BitDepth(bits=1)(images).unique()) == 2
    found = Colour8()(images)
    assert [len(found[:, c].unique()) <= most for c, most in enumerate((8, 8, 4))] == [True] * 3
    assert float((found[:, 2] - images[:, 2]).abs().max()) > 1 / 8
    assert float((Colour8()(images[:, :1]) - images[:, :1]).abs().max()) <= 0.5 / 255 + 1e-7


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_pillows(mode: str) -> None:
    images = pictures(5, 1 if mode == "L" else 3, 40, 33)
    found = JPEG(quality=30)(images)
    for image, ours in zip(images, found, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels, mode).save(file, "JPEG", quality=30)
        decoded = np.asarray(Image.open(file)).reshape(pixels.shape)
        assert np.array_equal((ours * 255).round().byte().permute(1, 2, 0).numpy(), decoded)


def test_the_surrogate_of_jpeg_is_near_it() -> None:
    x = torch.linspace(0, 1, 32)
    images = (x[:, None] * x).expand(2, 3, 32, 32).contiguous()
    for pictures_ in (images, images[:, :1]):
        soft = JPEG(quality=75).soft(pictures_, None)
        assert soft.shape == pictures_.shape
        assert float((soft - JPEG(quality=75)(pictures_)).abs().mean()) < 0.02


def test_without_kornia_jpeg_runs_forward_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    images = pictures(1, 3, 16, 16)
    JPEG()(images)
    with pytest.raises(MissingExtraError, match="transforms"):
        JPEG().passed(images.requires_grad_(), None)


def test_resampling_is_interpolation() -> None:
    images = pictures(3, 2, 9, 9, dtype=torch.float64)
    to = torch.tensor([5.0, 9.0, 7.0], dtype=torch.float64)
    there = resampler(9, 9, to, to * 0)
    back = back_again(9, 9, to) @ there
    for i, size in enumerate(to.long().tolist()):
        expected = interpolate(images[i : i + 1], size, mode="bilinear", align_corners=False)
        found = there[i] @ images[i] @ there[i].T
        torch.testing.assert_close(found[:, :size, :size], expected[0])
        assert not found[:, size:].any()
        again = interpolate(expected, 9, mode="bilinear", align_corners=False)
        torch.testing.assert_close(back[i] @ images[i] @ back[i].T, again[0])


def test_resize_and_pad_uses_every_size_and_place() -> None:
    white = torch.ones(300, 1, 20, 20) * torch.linspace(0.5, 1, 300).view(-1, 1, 1, 1)
    found = ResizePad(smallest=0.9)(white)
    sizes = (found > 0).flatten(1).sum(1).double().sqrt()
    assert set(sizes.tolist()) == {18.0, 19.0, 20.0}
    small = found[sizes == 18]
    corners = {
        ((image[0] > 0).any(1).nonzero()[0].item(), (image[0] > 0).any(0).nonzero()[0].item()) for image in small
    }
    assert corners == {(i, j) for i in range(3) for j in range(3)}
    assert (
        len({tuple(row) for row in ResizeBack()(pictures(1, 1, 20, 20).expand(3, -1, -1, -1))[:, 0, 0].tolist()}) == 1
    )
