"""`sparring attack` and `audit` at their edges: own code from the current folder, places of records, interruption."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sparring as sp
from sparring.attacks import ATTACKS, FGSM
from sparring.cli import main
from sparring.evaluation import EFFORTS

OWN = """
from dataclasses import dataclass

from helper_beside_it import SHARE
from sparring.attacks import Attack


@dataclass(frozen=True, kw_only=True)
class Mine(Attack):
    steps: int = 2

    def run(self, problem):
        points = problem.images
        for _ in range(self.steps):
            gradient = problem.gradient(points, "margin").grad
            points = problem.region.advance(points, gradient, SHARE * problem.region.eps)
        return points


class NoAttack:
    pass
"""
NETS = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def colour():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 4))
"""
SET = ["-d", "set.npz", "--eps", "0.2"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_attack.py").write_text(OWN)
    (tmp_path / "helper_beside_it.py").write_text("SHARE = 0.5\n")
    (tmp_path / "nets_here.py").write_text(NETS)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "set.npz", images=rng.random((40, 1, 8, 8), dtype=np.float32), labels=np.arange(40) % 4)
    for label in range(4):
        (tmp_path / "grey" / str(label)).mkdir(parents=True)
        for i in range(3):
            picture = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
            picture.save(tmp_path / "grey" / str(label) / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    for name in ("own_attack", "helper_beside_it", "nets_here"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def run(*arguments: str, code: int = 0) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sparring", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
    assert (stop.value.code or 0) == code


@pytest.mark.parametrize("text", ["own_attack:Mine:steps=3", "own_attack.py:Mine:steps=3", "folder/own_attack.py:Mine"])
def test_an_own_attack_in_the_current_folder(place: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "/" in text:
        (place / "folder").mkdir()
        for name in ("own_attack.py", "helper_beside_it.py"):
            (place / name).rename(place / "folder" / name)
    before = list(sys.path)
    run("attack", "-m", "nets_here:net", *SET, "--attack", text)
    assert json.loads((place / "sparring-attack" / "result.json").read_text())["attack"].startswith("own_attack:Mine")
    assert sys.path == before, "only the look-up sees the current folder"
    run("audit", "-m", "nets_here.py:net", *SET, "--attack", text, "--report", "own.json", "-q")
    assert json.loads((place / "own.json").read_text())["attacker"]["attacks"][0].startswith("own_attack:Mine")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("broken_attack:Mine", "SyntaxError"),
        ("raising_attack:Mine", "RuntimeError: boom"),
        ("leaving_attack.py:Mine", "SystemExit"),
        ("own_attack:Your", "Your"),
        ("own_attack:NoAttack", "not a final subclass"),
        ("own_attack:Mine:step=3", "did you mean 'steps'"),
        ("own_attack.py", "'own_attack.py:ClassName'"),
        ("missing_attack.py:Mine", "missing_attack.py does not exist"),
        ("missing_attack:Mine", "missing_attack"),
    ],
)
def test_an_own_attack_that_cannot_be_used(
    place: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "broken_attack.py").write_text("class Mine(:\n")
    (place / "raising_attack.py").write_text("raise RuntimeError('boom')\n")
    (place / "leaving_attack.py").write_text("raise SystemExit\n")
    for command in ("attack", "audit"):
        run(command, "-m", "nets_here:net", *SET, "--attack", text, code=2)
        error = capsys.readouterr().err
        assert said in error.replace("\n", " ")
        assert "Traceback" not in error


def test_the_exhibit_of_a_set_is_its_own_and_costs_no_second_attack(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    once = FGSM.run
    monkeypatch.setattr(FGSM, "run", lambda self, problem: calls.append(len(problem)) or once(self, problem))
    run("attack", "-m", "nets_here:net", *SET, "--attack", "fgsm", "--out", "out")
    assert len(calls) == 1
    result = json.loads((place / "out" / "result.json").read_text())
    example = json.loads((place / "out" / "example" / "result.json").read_text())
    exact = torch.from_numpy(np.load(place / "out" / "example" / "adversarial.npy"))
    clean = torch.from_numpy(np.load("set.npz")["images"][result["example"]])
    assert example["success"]
    assert float((exact - clean).abs().max()) == pytest.approx(example["distance"])
    run("attack", "-m", "nets_here:net", "-d", "set.npz", "--eps", "0", "--attack", "fgsm", "--out", "out")
    assert json.loads((place / "out" / "result.json").read_text())["example"] is None
    assert not (place / "out" / "example").exists(), "the picture of the earlier call"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (["--report", "gate.json"], ["gate-records", "gate.json"]),
        (["--report", "sub/gate.json", "--report", "other.xml"], ["other.xml", "sub/gate-records", "sub/gate.json"]),
        (["--report", "gate.json", "--out", "kept"], ["gate.json", "kept/records"]),
        (
            ["--out", "kept"],
            [f"kept/{name}" for name in ("records", *(f"report.{s}" for s in ("html", "json", "sarif", "xml")))],
        ),
    ],
)
def test_records_lie_where_the_reports_are(
    place: Path, flags: list[str], left: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(place.rglob("*"))
    run("audit", "-m", "nets_here:net", *SET, "--attack", "fgsm", "-q", *flags)
    made = [p for p in set(place.rglob("*")) - before if "__pycache__" not in p.parts]
    top = [str(p.relative_to(place)) for p in made]
    top = [name for name in top if name.endswith("records") or (Path(name).suffix and "records/" not in name)]
    assert sorted(top) == left
    capsys.readouterr()


def test_records_lie_where_the_declaration_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "sparring.toml").write_text('[audit]\nrecords = "deep/records"\nreports = ["gate.json"]\n')
    run("audit", "-m", "nets_here:net", *SET, "--attack", "fgsm", "-q")
    assert (place / "deep" / "records").is_dir()
    assert not (place / "gate-records").exists()
    capsys.readouterr()


def test_an_interrupted_attack_says_what_is_kept_and_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    np.savez("set.npz", images=rng.random((1100, 1, 8, 8), dtype=np.float32), labels=np.arange(1100) % 4)
    calls = []
    once = FGSM.run

    def stop_at_second(self: FGSM, problem: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return once(self, problem)

    monkeypatch.setattr(FGSM, "run", stop_at_second)
    run("attack", "-m", "nets_here:net", *SET, "--attack", "fgsm", "--out", "out", code=130)
    error = capsys.readouterr().err
    assert "1100 of 1100 images seen" in error
    assert "kept in out/records, the same command goes on from there" in error
    run("attack", "-m", "nets_here:net", *SET, "--attack", "fgsm", "--out", "out")
    assert len(calls) == 3, "the first chunk came from the records"
    capsys.readouterr()


def test_an_interruption_before_anything_was_done(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparring.loading.declared.load_model", stop)
    run("attack", "-m", "nets_here:net", *SET, code=130)
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert not (place / "sparring-attack").exists()


def test_channels_as_the_model_wants_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("attack", "-m", "nets_here:colour", "-d", "grey", "--eps", "0.1", "--attack", "fgsm", code=2)
    run("attack", "-m", "nets_here:colour", "-d", "grey", "--channels", "3", "--eps", "0.1", "--attack", "fgsm")
    run("audit", "-m", "nets_here:colour", "-d", "grey", "--channels", "3", "--eps", "0.1", "-a", "fgsm", "-q")
    run("init", "-m", "nets_here:colour", "-d", "grey", "--channels", "3", "--eps", "0.1")
    assert "channels = 3" in (place / "sparring.toml").read_text()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8) + 99).save("one.png")
    run("attack", "-m", "nets_here:net", "-i", "one.png", "--channels", "1", "--eps", "0.1", "--out", "one")
    assert np.load("one/adversarial.npy").shape == (1, 8, 8)
    capsys.readouterr()


def test_the_list_shows_every_attack_and_every_effort(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run("attack", "--list")
    text = capsys.readouterr().out
    table, _, efforts = text.partition("Written --attack")
    rows = {line.split()[0]: line for line in table.splitlines() if line.split() and line.split()[0] in ATTACKS}
    assert list(rows) == list(ATTACKS)
    for name, kind in ATTACKS.items():
        assert kind.access in rows[name]
        assert kind.paper.split(",")[0] in rows[name]
    for effort in EFFORTS:
        assert f"{effort}: " in efforts
    assert "steps=40" in text
    run("attack", "--list", "--norm", "l0")
    shown = capsys.readouterr().out.partition("Written --attack")[0]
    for name, kind in ATTACKS.items():
        listed = any(line.startswith(name + " ") for line in shown.splitlines())
        assert listed == ("l0" in kind.threats), name
    run("attack", "--list", "--norm", "l7", code=2)
    assert "linf" in capsys.readouterr().err


def test_targets_by_rule(place: Path) -> None:
    run("attack", "-m", "nets_here:net", *SET, "--attack", "pgd:steps=5", "--target", "least-likely", "--out", "out")
    model, images = sp.load_model("nets_here:net"), torch.from_numpy(np.load("set.npz")["images"])
    labels = torch.from_numpy(np.load("set.npz")["labels"])
    wanted = sp.choose_targets(model, images, labels, "least-likely")
    threat = sp.ThreatModel("linf", 0.2)
    expected = sp.evaluate(model, images, labels, threat, attacks=["pgd:steps=5"], targets=wanted)
    result = json.loads((place / "out" / "result.json").read_text())
    assert result["attack_success_rate"]["value"] == expected.attack_success_rate.value
    assert result["attack_success_rate"]["n"] == expected.attack_success_rate.n


def test_adversarials_made_elsewhere_are_verified(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images = sp.load_model("nets_here:net"), torch.from_numpy(np.load("set.npz")["images"])
    labels = torch.from_numpy(np.load("set.npz")["labels"])
    made = sp.attacks.PGD(steps=5)(model, images, sp.Untargeted(labels), sp.ThreatModel("linf", 0.2))
    made[0] = 0.5
    np.save("theirs.npy", made.numpy())
    run("attack", "-m", "nets_here:net", *SET, "--verify", "theirs.npy", "--out", "out")
    said = capsys.readouterr().out
    expected = sp.verify(model, images, labels, sp.ThreatModel("linf", 0.2), made)
    result = json.loads((place / "out" / "result.json").read_text())
    assert result["robust_accuracy"]["value"] == expected.robust_accuracy.value
    assert ("1 candidates left the budget" in said) == (expected.stages[0].rejected == 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--verify", "missing.npy"), "does not exist"),
        (("--verify", "few.npy"), "one per image"),
        (("--verify", "labels.npy"), "int64"),
        (("--verify", "text.npy"), "not a readable .npy file"),
        (("--verify", "few.npy", "--attack", "pgd"), "takes the place of --attack"),
        (("--target", "least-likly"), "--target must be a class number"),
    ],
)
def test_what_cannot_be_verified_is_explained(
    place: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("few.npy", np.load("set.npz")["images"][:1])
    np.save("labels.npy", np.load("set.npz")["labels"])
    (place / "text.npy").write_text("no array")
    run("attack", "-m", "nets_here:net", *SET, *arguments, code=2)
    assert said in capsys.readouterr().err.replace("\n", " ")
