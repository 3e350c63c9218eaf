"""Single pictures: what they look like as tensors, and broken or hostile files."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from sparring.errors import DataError, InputError, SparringError
from sparring.loading import PHOTOS, load_image
from sparring.loading.pictures import read_header


def colours(height=4, width=6):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)


def png(path, width, height, body=b""):
    """A PNG whose header declares any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_lossless_pictures_come_back_to_the_last_bit(tmp_path, suffix):
    array = colours()
    Image.fromarray(array).save(tmp_path / f"p{suffix}", lossless=True)
    image = load_image(tmp_path / f"p{suffix}")
    assert image.shape == (1, 3, 4, 6)
    assert image.dtype == torch.float32
    assert torch.equal(image[0].permute(1, 2, 0), torch.from_numpy(array) / 255)


def test_grey_is_repeated_and_colour_becomes_luminance(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "colour.png")
    Image.fromarray(colours()[..., 0]).save(tmp_path / "grey.png")
    grey = load_image(tmp_path / "grey.png", channels=1)
    assert torch.equal(load_image(tmp_path / "grey.png"), grey.expand(1, 3, 4, 6))
    colour = load_image(tmp_path / "colour.png")[0]
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    assert torch.allclose(load_image(tmp_path / "colour.png", channels=1)[0, 0], luminance, atol=1 / 255)


def test_sixteen_bit_grey_keeps_its_precision(tmp_path):
    values = np.array([[0, 1, 257], [30000, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = load_image(tmp_path / "deep.png", channels=1)[0, 0]
    assert torch.allclose(image.double() * 65535, torch.from_numpy(values.astype(float)), atol=0.01)


def test_transparency_is_laid_over_white(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    image = load_image(tmp_path / "a.png")[0, :, 0]
    assert image[:, 0].tolist() == [1, 0, 0]
    assert image[:, 1].tolist() == [1, 1, 1]
    assert image[0, 2] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK"])
def test_other_modes(tmp_path, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    Image.fromarray(np.full((8, 8, 3), 255, dtype=np.uint8)).convert(mode).save(tmp_path / f"m{suffix}")
    assert torch.allclose(load_image(tmp_path / f"m{suffix}"), torch.ones(1, 3, 8, 8), atol=0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.kron(colours(2, 3), np.ones((16, 16, 1), np.uint8))).save(
        tmp_path / "p.jpg", exif=exif, quality=100, subsampling=0
    )
    image = load_image(tmp_path / "p.jpg")[0].permute(1, 2, 0)
    stored = torch.from_numpy(np.array(Image.open(tmp_path / "p.jpg"))) / 255
    shown = {
        1: lambda x: x,
        2: lambda x: x.flip(1),
        3: lambda x: x.flip(0, 1),
        4: lambda x: x.flip(0),
        5: lambda x: x.transpose(0, 1),
        6: lambda x: x.transpose(0, 1).flip(1),
        7: lambda x: x.transpose(0, 1).flip(0, 1),
        8: lambda x: x.transpose(0, 1).flip(0),
    }[orientation](stored)
    assert torch.equal(image, shown)
    header = read_header(tmp_path / "p.jpg")
    assert (header.height, header.width) == shown.shape[:2]


def test_size_crops_the_centre_and_scales(tmp_path):
    array = np.zeros((40, 80, 3), dtype=np.uint8)
    array[:, 20:60] = 255
    Image.fromarray(array).save(tmp_path / "p.png")
    assert torch.equal(load_image(tmp_path / "p.png", size=10), torch.ones(1, 3, 10, 10))
    wide = load_image(tmp_path / "p.png", size=(10, 20))[0, 0]
    assert torch.equal(wide, load_image(tmp_path / "p.png", size=[10, 20])[0, 0])
    assert wide[:, :4].max() == 0
    assert wide[:, 7:13].min() == 1
    assert load_image(tmp_path / "p.png", size=(100, 7)).shape == (1, 3, 100, 7)


@pytest.mark.parametrize("name", list(PHOTOS))
def test_photographs_by_name(name):
    image = load_image(name, size=48)
    assert image.shape == (1, 3, 48, 48)
    assert float(image.std()) > 0.05


def test_an_unknown_photograph_lists_the_known():
    with pytest.raises(DataError, match=r"unknown picture 'chelsae'; did you mean 'chelsea'.*Or give the path"):
        load_image("chelsae")
    with pytest.raises(DataError, match=r"the picture gone/cat\.png does not exist"):
        load_image("gone/cat.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("keep", [0.3, 0.8])
def test_a_truncated_picture_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(colours(64, 64)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=rf"cut\{suffix} is (a broken picture|not a PNG).*"):
        load_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8001, 11000, 60_000])
def test_a_bomb_is_refused_by_its_header(tmp_path, side):
    limit = Image.MAX_IMAGE_PIXELS
    path = png(tmp_path / "bomb.png", side, side)
    with pytest.raises(
        DataError, match=r"bomb\.png is too large: .*at most 64000000 pixels are decoded; scale it down"
    ):
        load_image(path, size=8)
    with pytest.raises(DataError, match="too large"):
        read_header(path)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_bomb_is_refused_where_warnings_are_errors(tmp_path):
    with pytest.raises(DataError, match="too large"):
        load_image(png(tmp_path / "bomb.png", 10_000, 10_000))


def test_pixels_missing_behind_a_modest_header(tmp_path):
    with pytest.raises(DataError, match=r"lies\.png is a broken picture"):
        load_image(png(tmp_path / "lies.png", 4000, 4000, b"\0" * 100))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused_whatever_their_suffix(tmp_path, form):
    Image.fromarray(colours()).save(tmp_path / "p.png", format=form)
    with pytest.raises(DataError, match=r"p\.png is not a PNG, JPEG or WebP picture; convert it"):
        load_image(tmp_path / "p.png")


def test_what_is_no_file(tmp_path):
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in [("empty.png", "is empty"), ("pipe.png", "is a device or pipe"), (".", "is a folder")]:
        with pytest.raises(DataError, match=message):
            load_image(tmp_path / name)


def test_bad_options(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "p.png")
    with pytest.raises(InputError, match=r"channels 1 \(grey\) or 3 \(colour\), got channels=4"):
        load_image(tmp_path / "p.png", channels=4)
    with pytest.raises(SparringError, match="size must be"):
        load_image(tmp_path / "p.png", size=9000)
