"""The examples of other frameworks, files and modalities, run as a reader runs them."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sparring as sp
from sparring.auditing.compose import _reach
from sparring.cli import app
from sparring.loading import load_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "bridges"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Copies an example to an empty folder and goes there; its modules are forgotten afterwards."""
    known = set(sys.modules)

    def enter(name: str) -> Path:
        shutil.copytree(EXAMPLES / name, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.syspath_prepend(str(tmp_path / name))
        return tmp_path / name

    yield enter
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(script: str) -> dict[str, Any]:
    return runpy.run_path(script, run_name="__main__")


def sparring(*words: str) -> Any:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result


def test_every_example_declares_itself() -> None:
    folders = [folder for folder in EXAMPLES.iterdir() if folder.is_dir()]
    assert len(folders) >= 8
    for folder in folders:
        config = load_config(folder / "sparring.toml")
        assert config.model is not None
        assert config.threat is not None


def test_the_tabular_example_changes_only_what_can_be_changed(example: Callable[[str], Path]) -> None:
    example("tabular")
    run("make.py")
    sparring("attack", "--attack", "pgd:steps=5", "-n", "40", "--out", "out", "--quiet")
    result = json.loads(Path("out/result.json").read_text())
    assert 0.3 < result["robust_accuracy"]["value"] < result["clean_accuracy"]["value"]
    mask = np.load("mask.npy")
    assert mask.sum() == 6
    found = next(Path("out").rglob("*.safetensors"))
    from safetensors.numpy import load_file

    held = load_file(found)
    rows = np.load("rows.npz")["images"].astype("float32")
    changed = next(value for value in held.values() if value.ndim == 4)
    nearest = np.abs(changed[:, None] - rows[None]).reshape(len(changed), len(rows), -1).sum(2).argmin(1)
    moved = np.abs(changed - rows[nearest]).max(0) > 1e-6
    assert moved.any()
    assert not (moved & ~mask).any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_a_headline_says_how_little_may_be_changed(norm: str) -> None:
    mask = torch.zeros(1, 1, 30, dtype=torch.bool)
    mask[..., :6] = True
    for threat, known in ((sp.ThreatModel(norm, 1, mask=mask), True), (sp.ThreatModel(norm, 1), False)):
        assert ("6 of 30 values" in _reach(threat)) == known


def test_the_text_example_tells_vectors_from_words(
    example: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    example("text")
    shares = run("make.py")["make"]()
    assert shares["right"] > 0.95
    assert shares["right after the attack on vectors"] < 0.1
    assert shares["right after reading the attack as words"] > 0.9
    assert "%  right" in capsys.readouterr().out
    sparring("attack", "--attack", "fgsm", "-n", "40", "--quiet")


def test_the_onnx_example(example: Callable[[str], Path]) -> None:
    example("onnx")
    run("make_model.py")
    assert "rebuilt in torch" in sparring("attack", "--attack", "fgsm", "-n", "20").stderr


def test_the_endpoint_example(example: Callable[[str], Path]) -> None:
    folder = example("endpoint")
    server = ThreadingHTTPServer(("127.0.0.1", 0), runpy.run_path("serve.py")["Classify"])
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        declared = (folder / "endpoint.toml").read_text()
        assert "127.0.0.1:8000" in declared
        changed = declared.replace("127.0.0.1:8000", f"127.0.0.1:{server.server_port}").replace("= 20.0", "= 2000.0")
        (folder / "endpoint.toml").write_text(changed)
        said = sparring(
            "endpoint", "endpoint.toml", "--size", "8", "--channels", "1", "-a", "square:queries=5", "-n", "3"
        )
        assert "at most 29 pictures" in said.output
        result = sparring("attack", "-n", "3", "--attack", "square:queries=5")
        assert "clean accuracy   100.0 %" in result.stdout
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "script"), [("jax", "make.py"), ("huggingface", "make_model.py")])
def test_an_example_of_another_library(name: str, script: str, example: Callable[[str], Path]) -> None:
    example(name)
    run(script)
    sparring("attack", "--attack", "pgd:steps=10", "-n", "60", "--quiet")
    result = json.loads(Path("sparring-attack/result.json").read_text())
    assert result["clean_accuracy"]["value"] > 0.9
    assert result["robust_accuracy"]["value"] < 0.8


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_mobilenet_tutorial(example: Callable[[str], Path]) -> None:
    """Epsilon by epsilon on a photograph of 224 x 224, from a softmax head."""
    example("mobilenet")
    run("make_model.py")
    confidence = []
    for eps in ("0", "0.01", "0.1", "0.15"):
        result = sparring("attack", "--image", "chelsea", "--size", "224", "-a", "fgsm", "--eps", eps, "-o", f"e{eps}")
        assert "ends in softmax" in result.stderr
        found = json.loads(Path(f"e{eps}/result.json").read_text())
        assert found["success"] == (eps != "0")
        confidence.append(found["before"][0]["confidence"])
    assert confidence[0] > 0.3
