"""Every row is a mistake somebody makes. The command must exit with code 2, say what is wrong and what to do,
print no traceback, and leave nothing behind."""

import io
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sparring.cli import main

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Tuple(Net):
    def forward(self, x):
        return super().forward(x), x


class OneColumn(Net):
    def forward(self, x):
        return super().forward(x)[:, :1]


class Flat(Net):
    def forward(self, x):
        return super().forward(x).sum()


class Integers(Net):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 10)


class Nan(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")


class WrongShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(7, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        raise RuntimeError("no such luck")


class ThreeClasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, x):
        return self.layer(x.flatten(1))


def function(x):
    return x


number = 3
"""


def _bomb(path: Path) -> None:
    """A PNG whose header declares 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


class _Evil:
    def __reduce__(self):
        return (Path.write_text, (Path("pwned.txt"), "x"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder full of broken things, as the current folder."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((20, 1, 8, 8), dtype=np.float32), np.arange(20) % 10
    (tmp_path / "nets.py").write_text(NETS)
    np.savez(tmp_path / "good.npz", images=images, labels=labels)
    np.savez(tmp_path / "bytes_range.npz", images=images * 255, labels=labels)
    np.savez(tmp_path / "nan.npz", images=np.where(images > 0.99, np.nan, images), labels=labels)
    np.savez(tmp_path / "normalised.npz", images=images * 4 - 2, labels=labels)
    np.savez(tmp_path / "empty.npz", images=images[:0], labels=labels[:0])
    np.savez(tmp_path / "short_labels.npz", images=images, labels=labels[:7])
    np.savez(tmp_path / "negative_labels.npz", images=images, labels=labels - 5)
    np.savez(tmp_path / "float_labels.npz", images=images, labels=labels + 0.5)
    np.savez(tmp_path / "complex.npz", images=images.astype(complex), labels=labels)
    np.savez(tmp_path / "objects.npz", images=np.array([_Evil()], dtype=object), labels=labels[:1])
    np.savez(tmp_path / "nothing_known.npz", foo=images)
    (tmp_path / "truncated.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:500])
    (tmp_path / "not_a_zip.npz").write_bytes(b"hello")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(_Evil()))
    with zipfile.ZipFile(tmp_path / "pickled_zip.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Evil()))
        archive.writestr("archive/version", "3")
    save_file({"layer.weight": torch.zeros(10, 64)}, tmp_path / "missing_key.safetensors")
    save_file({"layer.weight": torch.zeros(9, 64), "layer.bias": torch.zeros(9)}, tmp_path / "shape.safetensors")
    (tmp_path / "truncated.safetensors").write_bytes((tmp_path / "shape.safetensors").read_bytes()[:40])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    _bomb(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("this is no picture")
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "JPEG")
    (tmp_path / "truncated.jpg").write_bytes(stream.getvalue()[:300])
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.gif")
    (tmp_path / "no_classes").mkdir()
    (tmp_path / "mixed" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "mixed" / "a" / "1.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "mixed" / "a" / "2.png")
    (tmp_path / "broken_toml.toml").write_text("[model\nspec=")
    (tmp_path / "unknown_key.toml").write_text('[model]\nspec = "digits-cnn"\nweigths = "x"\n')
    (tmp_path / "unknown_table.toml").write_text("[threats]\neps = 1\n")
    (tmp_path / "wrong_type.toml").write_text("[threat]\neps = true\n")
    (tmp_path / "occupied").write_text("a file where a folder is wanted")
    monkeypatch.chdir(tmp_path)
    return tmp_path


DIGITS = ["audit", "--model", "digits-cnn"]
GOOD = ["-d", "good.npz", "--eps", "0.1"]
NET = ["audit", "-m", "nets.py:Net"]

TABLE = [
    # arguments, what the message must contain
    ([*DIGITS, "--eps", "-1"], "eps"),
    ([*DIGITS, "--eps", "8/0"], "8/0"),
    ([*DIGITS, "--eps", "nan"], "finite"),
    ([*DIGITS, "--eps", "abc"], "abc"),
    ([*DIGITS, "--eps", "1/2/3"], "1/2/3"),
    ([*DIGITS, "--norm", "l0", "--eps", "1.5"], "whole number"),
    ([*DIGITS, "--norm", "l7", "--eps", "1"], "linf"),
    ([*DIGITS, "--eps", "0.1", "--effort", "lots"], "standard"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgdd"], "did you mean 'pgd'"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgd:step=3"], "steps"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgd:steps=0"], "steps"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgd:steps=2.5"], "whole number"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgd:steps"], "name=value"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgd:loss=hinge"], "cross_entropy"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgd", "--attack", "pgd"], "twice"),
    ([*DIGITS, "--eps", "0.1", "--attack", "no.such:Attack"], "no.such"),
    ([*DIGITS, "--eps", "0.1", "--fail-under", "40"], "fail_under"),
    ([*DIGITS, "--eps", "0.1", "--seed", "-3"], "seed"),
    ([*DIGITS, "--eps", "0.1", "--batch-size", "0"], "batch_size"),
    ([*DIGITS, "--eps", "0.1", "--target", "cat"], "cat"),
    ([*DIGITS, "--eps", "0.1", "--target", "12"], "12"),
    ([*DIGITS, "--eps", "0.1", "--report", "report.pdf"], ".html"),
    ([*DIGITS, "--eps", "0.1", "--out", "occupied"], "occupied"),
    ([*DIGITS, "--eps", "0.1", "--report", "occupied/report.html"], "occupied"),
    (["audit", "--model", "digit-cnn", *GOOD], "digits-cnn"),
    (["audit", "--model", "no.such.module:Net", *GOOD], "no.such.module"),
    (["audit", "--model", "missing.py:Net", *GOOD], "missing.py"),
    (["audit", "--model", "nets.py:Nett", *GOOD], "Nett"),
    (["audit", "--model", "nets.py:number", *GOOD], "number"),
    (["audit", "--model", "nets.py:Raises", *GOOD], "no such luck"),
    (["audit", "--model", "nets.py:Tuple", *GOOD], "output_index"),
    (["audit", "--model", "nets.py:OneColumn", *GOOD], "one-logit"),
    (["audit", "--model", "nets.py:Flat", *GOOD], "shape"),
    (["audit", "--model", "nets.py:Integers", *GOOD], "floating-point"),
    (["audit", "--model", "nets.py:Nan", *GOOD], "NaN"),
    (["audit", "--model", "nets.py:WrongShape", *GOOD], "failed on images"),
    (["audit", "--model", "nets.py:ThreeClasses", *GOOD], "3 classes"),
    ([*NET, *GOOD, "--weights", "missing.safetensors"], "missing.safetensors"),
    ([*NET, *GOOD, "--weights", "pickled.pt"], "pickled.pt"),
    ([*NET, *GOOD, "--weights", "pickled_zip.pt"], "pickled_zip.pt"),
    ([*NET, *GOOD, "--weights", "missing_key.safetensors"], "layer.bias"),
    ([*NET, *GOOD, "--weights", "shape.safetensors"], "layer.weight"),
    ([*NET, *GOOD, "--weights", "truncated.safetensors"], "truncated.safetensors"),
    ([*NET, *GOOD, "--weights", "empty.safetensors"], "empty.safetensors"),
    ([*NET, *GOOD, "--std", "0"], "std"),
    ([*NET, *GOOD, "--mean", "a,b"], "--mean"),
    ([*NET, *GOOD, "--mean", "0.5,0.5,0.5"], "channels"),
    ([*NET, *GOOD, "--outputs", "softmax"], "probabilities"),
    ([*NET, "-d", "missing.npz", "--eps", "0.1"], "missing.npz"),
    ([*NET, "-d", "digitz", "--eps", "0.1"], "digits"),
    ([*NET, "-d", "bytes_range.npz", "--eps", "0.1"], "255"),
    ([*NET, "-d", "normalised.npz", "--eps", "0.1"], "mean"),
    ([*NET, "-d", "nan.npz", "--eps", "0.1"], "NaN"),
    ([*NET, "-d", "empty.npz", "--eps", "0.1"], "empty"),
    ([*NET, "-d", "short_labels.npz", "--eps", "0.1"], "7"),
    ([*NET, "-d", "negative_labels.npz", "--eps", "0.1"], "-5"),
    ([*NET, "-d", "float_labels.npz", "--eps", "0.1"], "labels"),
    ([*NET, "-d", "complex.npz", "--eps", "0.1"], "complex"),
    ([*NET, "-d", "objects.npz", "--eps", "0.1"], "objects.npz"),
    ([*NET, "-d", "nothing_known.npz", "--eps", "0.1"], "foo"),
    ([*NET, "-d", "truncated.npz", "--eps", "0.1"], "truncated.npz"),
    ([*NET, "-d", "not_a_zip.npz", "--eps", "0.1"], "not_a_zip.npz"),
    ([*NET, "-d", "no_classes", "--eps", "0.1"], "no_classes"),
    ([*NET, "-d", "mixed", "--eps", "0.1"], "size"),
    (["audit"], "model"),
    (["audit", "--config", "missing.toml"], "missing.toml"),
    (["audit", "--config", "broken_toml.toml"], "TOML"),
    (["audit", "--config", "unknown_key.toml"], "weights"),
    (["audit", "--config", "unknown_table.toml"], "threat"),
    (["audit", "--config", "wrong_type.toml"], "eps"),
    (["attack", "-m", "digits-cnn", "--image", "missing.png"], "missing.png"),
    (["attack", "-m", "digits-cnn", "--image", "text.png"], "text.png"),
    (["attack", "-m", "digits-cnn", "--image", "bomb.png"], "60000"),
    (["attack", "-m", "digits-cnn", "--image", "truncated.jpg"], "truncated.jpg"),
    (["attack", "-m", "digits-cnn", "--image", "picture.gif"], "picture.gif"),
    (["attack", "-m", "digits-cnn", "--image", "a.png", "--data", "digits"], "not both"),
    (["attack", "-m", "digits-cnn", "--data", "digits", "--eps", "0.1", "--attack", "bogus"], "fgsm"),
    (["init", "-m", "digits-cnn", "--out", "broken_toml.toml"], "--force"),
    (["init", "-m", "nets.py:Tuple", "-d", "good.npz"], "output_index"),
]


def _run(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sparring", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.parametrize(("arguments", "expected"), TABLE, ids=[" ".join(row[0])[:60] for row in TABLE])
def test_mistake_is_explained_and_nothing_is_left_behind(arguments, expected, place, monkeypatch, capsys):
    before = sorted(p.relative_to(place) for p in place.rglob("*") if "__pycache__" not in p.parts)
    code, _, error = _run(arguments, monkeypatch, capsys)
    after = sorted(p.relative_to(place) for p in place.rglob("*") if "__pycache__" not in p.parts)
    assert code == 2, error
    assert "Traceback" not in error
    assert expected in error.replace("\n", " ")
    assert after == before
    assert not (place / "pwned.txt").exists()


def test_table_is_long_enough():
    assert len(TABLE) >= 40


@pytest.mark.parametrize("command", [["bogus"], ["audit", "--bogus"], ["audit", "--n", "many"]])
def test_usage_errors_exit_with_2(command, place, monkeypatch, capsys):
    code, _, error = _run(command, monkeypatch, capsys)
    assert code == 2
    assert "Traceback" not in error
