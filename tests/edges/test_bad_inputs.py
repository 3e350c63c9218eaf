"""Every row is a mistake somebody makes. The command must exit with code 2, say what is wrong and what to do,
print no traceback, and leave nothing behind."""

import io
import json
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


class Dict(Net):
    def forward(self, x):
        return {"logits": super().forward(x)}


class Nothing(Net):
    def forward(self, x):
        return None


class NoClasses(Net):
    def forward(self, x):
        return super().forward(x)[:, :0]


class FewerRows(Net):
    def forward(self, x):
        return super().forward(x)[:-1]


class Complex(Net):
    def forward(self, x):
        return super().forward(x).to(torch.complex64)


class Leaves(Net):
    def forward(self, x):
        raise SystemExit(0)


class Needs(Net):
    def __init__(self, classes):
        super().__init__()


def function(x):
    return x


def nan_weights():
    net = Net()
    net.layer.weight.data.fill_(float("nan"))
    return net


def double():
    return Net().double()


def half():
    return Net().half()


def kind():
    return Net


number = 3
"""


def _bomb(path: Path) -> None:
    """A PNG whose header declares 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def _labelled(path: Path, **pictures: bytes) -> None:
    """Class folders c0 to c9 of two pictures each, and whatever else a case wants there."""
    rng = np.random.default_rng(0)
    for name in (f"c{i}" for i in range(10)):
        (path / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path / name / f"{i}.png")
    for name, content in pictures.items():
        (path / "c3" / name.replace("__", ".")).write_bytes(content)


TOML = {
    "twice": '[model]\nspec = "a"\nspec = "b"',
    "not_a_table": "model = [1]",
    "number": "[model]\nspec = 3",
    "list": "[threat]\neps = [1]",
    "norm": '[model]\nspec = "digits-cnn"\n[threat]\nnorm = "Linf"\neps = 1',
    "seed": "[audit]\nseed = -1",
    "bounds": '[model]\nspec = "digits-cnn"\n[threat]\neps = 0.1\nbounds = [1, 0]',
    "mask": '[model]\nspec = "digits-cnn"\n[threat]\neps = 0.1\nmask = "nowhere.png"',
    "mask_size": '[model]\nspec = "digits-cnn"\n[data]\nsource = "digits"\nn = 5\n[threat]\neps = 1\nmask = "big.png"',
    "classes": '[model]\nspec = "nets.py:Net"\n[data]\nsource = "good.npz"\nclasses = ["a", "b"]\n[threat]\neps = 0.1',
    "device": '[model]\nspec = "nets.py:Net"\ndevice = "gpu"\n[data]\nsource = "good.npz"',
    "index": '[model]\nspec = "nets.py:Dict"\noutput_index = "logit"\n[data]\nsource = "good.npz"',
    "labels": '[model]\nspec = "nets.py:Net"\n[data]\nsource = "good.npz"\nlabels = "words.txt"',
    "target": '[model]\nspec = "digits-cnn"\n[threat]\neps = 0.1\ntarget = 77',
    "reports": '[model]\nspec = "digits-cnn"\n[audit]\nreports = ["a.doc"]',
    "attacks": '[audit]\nattacks = "pgd"',
    "nan": "[threat]\neps = nan",
    "percent": '[audit]\nfail_under = "40%"',
    "nested": "x = " + "[" * 5000,
}


class _Evil:
    def __reduce__(self):
        return (Path.write_text, (Path("pwned.txt"), "x"))


def _picture_bytes() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


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
    for name, text in TOML.items():
        (tmp_path / f"{name}.toml").write_text(text)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0\1")
    (tmp_path / "zero.toml").touch()
    (tmp_path / "zero.png").touch()
    (tmp_path / "words.txt").write_text("1\ntwo\n")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "big.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "gif_inside.png", "GIF")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.tiff")
    save_file(
        {"layer.weight": torch.full((10, 64), torch.nan), "layer.bias": torch.zeros(10)}, tmp_path / "nan.safetensors"
    )
    np.savez(tmp_path / "onehot.npz", images=images, labels=np.eye(10)[labels])
    np.savez(tmp_path / "words.npz", images=images, labels=np.array(["cat"] * 20))
    np.savez(tmp_path / "int32.npz", images=(images * 255).astype(np.int32), labels=labels)
    np.savez(tmp_path / "flat.npz", images=images.reshape(20, 64), labels=labels)
    np.savez(tmp_path / "no_height.npz", images=images[:, :, :0], labels=labels)
    np.savez(tmp_path / "large_labels.npz", images=images, labels=labels + 100)
    good = _picture_bytes()
    _labelled(tmp_path / "zero_picture", zero__png=b"")
    _labelled(tmp_path / "cut_picture", cut__png=good[:-25])
    _labelled(tmp_path / "with_text", readme__txt=b"hello")
    _labelled(tmp_path / "eleven")
    (tmp_path / "eleven" / "d").mkdir()
    (tmp_path / "eleven" / "d" / "0.png").write_bytes(good)
    _labelled(tmp_path / "dead_link")
    (tmp_path / "dead_link" / "c0" / "dead.png").symlink_to("nowhere.png")
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
    # what models return
    (["audit", "-m", "nets.py:Dict", *GOOD], "output_index='logits'"),
    (["audit", "-m", "nets.py:Dict", "--output-index", "logit", *GOOD], "a dict of 'logits'"),
    (["audit", "-m", "nets.py:Tuple", "--output-index", "2", *GOOD], "a tuple of 2 elements"),
    (["audit", "-m", "nets.py:Nothing", *GOOD], "NoneType"),
    (["audit", "-m", "nets.py:NoClasses", *GOOD], "(1, 0)"),
    (["audit", "-m", "nets.py:FewerRows", *GOOD], "for 1 images"),
    (["audit", "-m", "nets.py:Complex", *GOOD], "complex64"),
    (["audit", "-m", "nets.py:Leaves", *GOOD], "SystemExit(0)"),
    (["audit", "-m", "nets.py:Needs", *GOOD], "without arguments"),
    (["audit", "-m", "nets.py:nan_weights", *GOOD], "NaN"),
    (["audit", "-m", "nets.py:double", *GOOD], "convert the model, model.to(torch.float32)"),
    (["audit", "-m", "nets.py:half", *GOOD], "convert the model, model.to(torch.float32)"),
    (["audit", "-m", "nets.py:kind", *GOOD], "return the module itself"),
    ([*NET, *GOOD, "--outputs", "one-logit"], "one number per image"),
    ([*NET, *GOOD, "--weights", "nan.safetensors"], "NaN"),
    ([*NET, *GOOD, "--weights", "zero_picture"], "is a folder"),
    ([*NET, *GOOD, "--device", "gpu"], "'gpu'"),
    ([*NET, *GOOD, "--channels", "0"], "channels"),
    (["audit", "-m", "mixed:Net", *GOOD], "unknown factory 'Net'"),
    (["audit", "-m", "os:getcwd", *GOOD], "gave a str"),
    (["audit", "-m", "nets.py", *GOOD], "nets.py:factory"),
    (["audit", "-m", ":", *GOOD], "package.module:factory"),
    # data
    ([*NET, "-d", "zero_picture", "--eps", "0.1"], "zero.png is empty"),
    ([*NET, "-d", "cut_picture", "--eps", "0.1"], "cut.png is a broken picture"),
    ([*NET, "-d", "with_text", "--eps", "0.1"], "readme.txt"),
    ([*NET, "-d", "dead_link", "--eps", "0.1"], "dead.png does not exist"),
    ([*NET, "-d", "eleven", "--eps", "0.1"], "label 10 does not exist"),
    ([*NET, "-d", "onehot.npz", "--eps", "0.1"], "argmax"),
    ([*NET, "-d", "words.npz", "--eps", "0.1"], "whole numbers"),
    ([*NET, "-d", "int32.npz", "--eps", "0.1"], "int32"),
    ([*NET, "-d", "flat.npz", "--eps", "0.1"], "(20, 64)"),
    ([*NET, "-d", "no_height.npz", "--eps", "0.1"], "no empty dimension"),
    ([*NET, "-d", "large_labels.npz", "--eps", "0.1"], "label 109 does not exist"),
    ([*NET, "-d", "big.png", "--eps", "0.1"], "neither a folder"),
    ([*NET, "-d", "http://example.org/x.npz", "--eps", "0.1"], "does not exist"),
    # flags
    ([*DIGITS, "--eps", "8"], '"8/255"'),
    ([*DIGITS, "--eps", "1,5"], "1,5"),
    ([*DIGITS, "--eps", "1e400"], "finite"),
    ([*DIGITS, "--eps", "5%"], "5%"),
    ([*DIGITS, "--eps", ""], "eps"),
    ([*DIGITS, "--eps", "0.1", "--seed", "9" * 30], "seed"),
    ([*DIGITS, "--eps", "0.1", "--size", "1,2,3"], "size"),
    ([*DIGITS, "--eps", "0.1", "--size", "nan"], "--size"),
    ([*DIGITS, "--eps", "0.1", "-n", "100000"], "1 to 797"),
    ([*DIGITS, "--eps", "0.1", "--std", "nan"], "std"),
    ([*DIGITS, "--eps", "0.1", "--mean", "0.5"], "your own models"),
    ([*DIGITS, "--eps", "0.1", "--fail-under", "nan"], "fail_under"),
    ([*DIGITS, "--eps", "0.1", "--effort", "quick", "--attack", "fgsm"], "not both"),
    ([*DIGITS, "--eps", "0.1", "--attack", "pgd:loss=margin,loss=dlr"], "twice"),
    ([*DIGITS, "--eps", "0.1", "--attack", ":"], "Known"),
    ([*DIGITS, "--eps", "0.1", "--out", "/dev/null"], "/dev/null"),
    ([*DIGITS, "--eps", "0.1", "--report", "big"], ".html"),
    ([*DIGITS, "--eps", "0.1", "extra"], "extra"),
    (["demo", "--effort", "lots"], "standard"),
    (["demo", "--out", "occupied/x"], "occupied"),
    (["init", "-m", "digits-cnn", "--out", "mixed"], "folder"),
    (["init", "-m", "digits-cnn", "--out", "occupied/x.toml"], "occupied"),
    (["init", "-m", "nets.py:Net"], "declares the data"),
    # pictures
    (["attack", "-m", "digits-cnn", "--image", "zero.png"], "zero.png is empty"),
    (["attack", "-m", "digits-cnn", "--image", "gif_inside.png"], "PNG, JPEG or WebP"),
    (["attack", "-m", "digits-cnn", "--image", "picture.tiff"], "PNG, JPEG or WebP"),
    (["attack", "-m", "digits-cnn", "--image", "mixed"], "is a folder"),
    (["attack", "-m", "digits-cnn", "--image", "chelse"], "did you mean 'chelsea'"),
    (["attack", "-m", "digits-cnn", "--image", "big.png", "--label", "cat"], "cat"),
    (["attack", "-m", "digits-cnn", "--image", "big.png", "--target", "11"], "11"),
    (["attack", "-m", "digits-cnn", "--image", "big.png", "--size", "0"], "size"),
    (["attack", "-m", "digits-cnn", "--image", "big.png", "--channels", "2"], "channels"),
    (["attack", "-m", "digits-cnn", "--image", "big.png", "--out", "occupied/x"], "occupied"),
    (["attack", "-m", "digits-cnn", "--image", "big.png", "-n", "5"], "not both"),
    (["attack", "-m", "digits-cnn", "-d", "digits", "-n", "10", "--target", "99"], "99"),
    # the file
    *(
        ([*NET[:1], "--config", f"{name}.toml"], said)
        for name, said in {
            "zero": "empty",
            "binary": "not valid TOML",
            "twice": "not valid TOML",
            "nested": "not valid TOML",
            "not_a_table": "must be a table",
            "number": "spec",
            "list": "eps",
            "norm": "did you mean 'linf'",
            "seed": "seed",
            "bounds": "bounds",
            "mask": "nowhere.png",
            "mask_size": "mask of shape",
            "classes": "only 2 class names",
            "device": "'gpu'",
            "index": "a dict of 'logits'",
            "labels": "'two'",
            "target": "target 77",
            "reports": "a.doc",
            "attacks": "a list",
            "nan": "finite",
            "percent": "40%",
        }.items()
    ),
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
    if error.startswith("error:"):
        assert error.count("\n") == 1, "one line says it all"
    assert after == before
    assert not (place / "pwned.txt").exists()


def test_table_is_long_enough():
    assert len(TABLE) >= 160


PICTURES = {
    "sixteen.png": lambda: Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000),
    "cmyk.jpg": lambda: Image.new("CMYK", (8, 8), (10, 200, 30, 0)),
    "alpha.png": lambda: Image.new("RGBA", (8, 8), (10, 200, 30, 128)),
    "palette.png": lambda: Image.new("RGB", (8, 8), "red").convert("P"),
    "bits.png": lambda: Image.new("1", (8, 8)),
    "animated.webp": lambda: Image.new("RGB", (8, 8), "red"),
    "animated.png": lambda: Image.new("RGB", (8, 8), "red"),
    "one_pixel.png": lambda: Image.new("RGB", (1, 1), "red"),
    "thin.png": lambda: Image.new("RGB", (1, 500), "red"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_an_unusual_picture_is_read(name, place, monkeypatch, capsys):
    more = [Image.new("RGB", (8, 8), "blue")]
    extra = {"save_all": True, "append_images": more} if "animated" in name else {}
    PICTURES[name]().save(place / name, **extra)
    code, _, error = _run(
        ["attack", "-m", "digits-cnn", "-i", name, "--eps", "0.1", "-a", "fgsm", "-o", "out"], monkeypatch, capsys
    )
    assert code == 0, error
    assert np.load(place / "out" / "adversarial.npy").shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"images": np.full((20, 1, 8, 8), 0.5, np.float32)}, "narrow-input-range"),
        ({"labels": np.zeros(20, int)}, "single-class-data"),
        ({"images": np.random.default_rng(1).random((20, 1, 8, 8)).astype(np.float16)}, "small-sample"),
        ({}, "at-chance"),
    ],
    ids=["grey", "one class", "half precision", "labels in another order"],
)
def test_doubtful_data_is_a_finding(arrays, code, place, monkeypatch, capsys):
    torch.manual_seed(0)
    good = np.load("good.npz")
    images = torch.from_numpy(good["images"])
    import importlib.util

    spec = importlib.util.spec_from_file_location("nets_of_the_case", "nets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.Net()
    save_file(net.state_dict(), "net.safetensors")
    shifted = (net(images).argmax(1).numpy() + 1) % 10
    np.savez("case.npz", **{"images": good["images"], "labels": shifted, **arrays})
    exits, _, error = _run(
        [
            "audit",
            "-m",
            "nets.py:Net",
            "--weights",
            "net.safetensors",
            "-d",
            "case.npz",
            "--eps",
            "0.1",
            "-a",
            "fgsm",
            "--report",
            "r.json",
            "-q",
        ],
        monkeypatch,
        capsys,
    )
    assert exits == 0, error
    assert code in [finding["code"] for finding in json.loads(Path("r.json").read_text())["findings"]]


@pytest.mark.parametrize("command", [["bogus"], ["audit", "--bogus"], ["audit", "--n", "many"]])
def test_usage_errors_exit_with_2(command, place, monkeypatch, capsys):
    code, _, error = _run(command, monkeypatch, capsys)
    assert code == 2
    assert "Traceback" not in error
