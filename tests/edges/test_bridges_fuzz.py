"""Model files and declarations with bytes changed at random: a model or an error that explains, and nothing else."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
import torch
from tests.helpers_onnx import convolutional

from sparring.bridges import open_endpoint, open_onnx
from sparring.bridges.keras.archive import checked
from sparring.errors import SparringError

ENDPOINT = """
url = "http://127.0.0.1:8000/classify"
body = { image = "{png}", more = ["{array}"] }
response = "scores.0"
answers = "label"
classes = 10
max_queries = 2000
headers = { Authorization = "Bearer ${TOKEN}" }
"""


def mutated(content: bytes, seed: int) -> bytes:
    rng, found = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(found))
        kind = rng.randrange(4)
        if kind == 0:
            found[place] = rng.randrange(256)
        elif kind == 1:
            del found[place : place + rng.randint(1, 20)]
        elif kind == 2:
            found[place:place] = rng.randbytes(rng.randint(1, 8))
        else:
            found[place : place + 4] = found[(at := rng.randrange(len(found))) : at + 4]
        if not found:
            break
    return bytes(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", [0, 100])
def test_changed_onnx_files(start: int, tmp_path: Path) -> None:
    content = convolutional(tmp_path / "good.onnx", softmax=True).read_bytes()
    file, opened = tmp_path / "net.onnx", 0
    for seed in range(start, start + 60):
        file.write_bytes(mutated(content, seed))
        with contextlib.suppress(SparringError):
            assert open_onnx(file)(torch.rand(2, 1, 8, 8)).shape[0] == 2
            opened += 1
    assert 0 < opened < 60


def test_changed_declarations(tmp_path: Path) -> None:
    file = tmp_path / "endpoint.toml"
    for seed in range(400):
        file.write_bytes(mutated(ENDPOINT.encode(), seed))
        with contextlib.suppress(SparringError):
            open_endpoint(file)


def test_changed_archives(tmp_path: Path) -> None:
    import io
    import json
    import zipfile

    import h5py

    weights = io.BytesIO()
    with h5py.File(weights, "w") as held:
        held["layers/dense/vars/0"] = torch.rand(4, 3).numpy()
    layer = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    file = tmp_path / "net.keras"
    file.write_bytes(stream.getvalue())
    checked(file)
    for seed in range(300):
        file.write_bytes(mutated(stream.getvalue(), seed))
        with contextlib.suppress(SparringError):
            checked(file)
