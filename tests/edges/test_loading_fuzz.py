"""Damaged files of every kind: they load, or they raise one of our errors; nothing else gets out."""

import gzip
import io
import random
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from sparring.errors import SparringError
from sparring.loading import load_config, load_data, load_image, load_mask
from sparring.loading.weights import read_weights

DRAWS = np.random.RandomState(0)
PICTURE = DRAWS.randint(0, 256, (20, 24, 3), dtype=np.uint8)
STATE = {"a": torch.ones(3, 4), "b": torch.zeros(2)}


def stream(write, *arguments, **options):
    buffer = io.BytesIO()
    write(buffer, *arguments, **options)
    return buffer.getvalue()


def picture(form, mode="RGB"):
    exif = Image.Exif()
    exif[0x0112] = 6
    return stream(Image.fromarray(PICTURE).convert(mode).save, form, exif=exif)


IDX = struct.pack(">4B3I", 0, 0, 8, 3, 4, 5, 6) + bytes(range(120))
TOML = b'[model]\nspec="digits-cnn"\nmean=[0.5, 0.1]\n[data]\nsource="digits"\nn=5\n[threat]\neps="8/255"\n'

FILES = {
    "rgb.png": (picture("PNG"), load_image),
    "palette.png": (picture("PNG", "P"), load_image),
    "p.jpg": (picture("JPEG"), load_image),
    "p.webp": (picture("WEBP"), load_image),
    "stored.npz": (stream(np.savez, images=PICTURE[None], labels=np.arange(1)), load_data),
    "packed.npz": (stream(np.savez_compressed, x=DRAWS.rand(3, 8, 8), y=np.arange(3)), load_data),
    "t10k-images-idx3-ubyte": (IDX, load_data),
    "t10k-images-idx3-ubyte.gz": (gzip.compress(IDX), load_data),
    "w.safetensors": (save(STATE), read_weights),
    "w.pt": (stream(lambda f: torch.save({"state_dict": STATE}, f)), read_weights),
    "m.npy": (stream(np.save, np.arange(16).reshape(4, 4)), load_mask),
    "c.toml": (TOML, load_config),
}


def damaged(content, draws):
    spoilt = bytearray(content)
    for _ in range(draws.choice([1, 1, 2, 5])):
        at = draws.randrange(min(len(spoilt), draws.choice([40, 300, 10**6])))
        what = draws.random()
        if what < 0.6:
            spoilt[at] = draws.randrange(256)
        elif what < 0.75:
            del spoilt[at : at + draws.choice([1, 4, 50])]
        elif what < 0.9:
            spoilt[at:at] = draws.randbytes(draws.choice([1, 4]))
        else:
            spoilt = spoilt[: max(1, at)]
        if not spoilt:
            break
    return bytes(spoilt)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(FILES))
def test_damaged_files(tmp_path, name):
    content, load = FILES[name]
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes(4))
    refusals = []
    (tmp_path / name).write_bytes(content)
    load(tmp_path / name)
    draws = random.Random(name)
    for _ in range(150):
        (tmp_path / name).write_bytes(damaged(content, draws))
        try:
            load(tmp_path / name)
        except SparringError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert max(map(len, refusals)) < 1000
