"""`sparring harden` as a person types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import sparring as sp
from sparring.cli import app, stacks
from sparring.cli import harden as command
from sparring.errors import ConfigError
from sparring.hardening import METHODS, HardeningInterrupted, TrainingProgress
from sparring.loading import declared_data, load_config

NET = """
from torch import nn
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""
SHORT = ["--eps", "0.1", "--epochs", "1", "--effort", "none", "--set", "watch=20"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NET)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["harden", *arguments])


def test_from_a_fresh_net_to_weights_that_load() -> None:
    done = run(
        "-m",
        "nets.py:net",
        "-d",
        "digits",
        "-n",
        "200",
        "--out",
        "robust",
        "--set",
        "lr=0.01",
        *SHORT[:4],
        "--effort",
        "quick",
    )
    assert done.exit_code == 0, done.output
    assert "robust" in done.stdout
    assert "linf eps 0.1, quick effort, on 797 test images" in done.stdout.replace("\n", " ")
    model = sp.load_model("nets.py:net", weights="robust/model.safetensors")
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    card = json.loads(Path("robust/card.json").read_text())
    assert card["recipe"]["lr"] == 0.01
    assert card["data"]["train"] == 180
    assert re.search(r"epoch 1/1: PGD-10 [\d.]+ % at eps [\d.]+, n = 20, trained", done.stderr)


def test_a_second_call_finds_the_work_done() -> None:
    """Although the factory draws its first weights anew: they follow from the seed."""
    for _ in range(2):
        done = run("-m", "nets.py:net", "-d", "digits", "-n", "100", *SHORT)
        assert done.exit_code == 0, done.output
    other = run("-m", "nets.py:net", "-d", "digits", "-n", "100", *SHORT, "--seed", "1")
    assert "another run" in str(other.exception)


def test_what_is_audited_is_not_learned(tmp_path: Path) -> None:
    """A declaration names the test part, as `sparring init` writes it: training takes the other one all the same."""
    declared = '[model]\nspec = "nets.py:net"\n[data]\nsource = "{}"\nsplit = "test"\n[threat]\neps = 0.1\n'
    file = tmp_path / "sparring.toml"
    for part, grey in (("train", 40), ("test", 200)):
        for label in range(10):
            folder = tmp_path / "pictures" / part / str(label)
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("L", (8, 8), grey + label + number).save(folder / f"{number}.png")
    for source, learned in (("digits", 1000), ("./pictures", 20)):
        file.write_text(declared.format(source))
        train, held, said = command._parts(load_config(file), None)
        assert (train.data.split, held.data.split, said) == ("train", "test", [])
        assert len(declared_data(train).labels) == learned
    train, held, said = command._parts(load_config(file), "digits")
    assert (train.data.split, held.data.source, said) == ("train", "digits", [])


def test_a_set_without_parts_is_said_to_be_learned(tmp_path: Path) -> None:
    for name in ("train", "plane"):  # a class that is called train is no part of the set
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "pictures" / name / "0.png")
    (tmp_path / "sparring.toml").write_text('[model]\nspec = "nets.py:net"\n[data]\nsource = "./pictures"\n')
    config = load_config(tmp_path / "sparring.toml")
    train, held, said = command._parts(config, None)
    assert (train, held) == (config, None)
    assert "audit the result on other images" in said[0]
    with pytest.raises(ConfigError, match="--calibration"):
        stacks.calibration(config)


def test_a_folder_of_reviewed_pictures(tmp_path: Path) -> None:
    for label in range(10):
        folder = tmp_path / "reviewed" / str(label)
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), 20 * label + number).save(folder / f"{number}.png")
    done = run(
        "-m", "digits-cnn", "-d", "./reviewed", "--freeze", "0.*", "--batch-size", "8", "--validation", "5",
        "--method", "pgd", "--inner", "mifgsm:steps=2", "--augment", "flip", *SHORT,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    card = json.loads(Path("sparring-hardened/card.json").read_text())
    assert card["data"]["train"] == 25
    assert card["method"] == "pgd:inner=mifgsm:steps=2"
    before = sp.load_model("digits-cnn").state_dict()
    after = sp.load_model("digits-cnn", weights="sparring-hardened/model.safetensors").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith("0.") for name in changed)


def test_the_gate() -> None:
    arguments = ("-m", "nets.py:net", "-d", "digits", "-n", "60", *SHORT[:4], "--effort", "quick", "--fail-under")
    assert run(*arguments, "0.99").exit_code == 1
    assert run(*arguments, "0.0").exit_code == 0


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise HardeningInterrupted(None, ())

    monkeypatch.setattr("sparring.hardening.harden", stopped)
    done = run("-m", "nets.py:net", "-d", "digits", *SHORT)
    assert done.exit_code == 130
    assert "nothing is kept yet" in done.stderr
    Path("sparring-hardened").mkdir()
    Path("sparring-hardened/state.pt").touch()
    assert "the same command goes on" in run("-m", "nets.py:net", "-d", "digits", *SHORT).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "fats"], "did you mean 'fast'"),
        (["--set", "awp"], "name=value"),
        (["--set", "awk=1"], "awp"),
        (["--effort", "hard"], "effort"),
        (["--fail-under", "0.5"], "final audit"),
        (["--set", "amp=true"], "GPU"),
        (["--norm", "l0", "--eps", "3"], "l0"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("-m", "nets.py:net", "-d", "digits", "-n", "50", *SHORT, *arguments)
    assert done.exit_code != 0
    assert said in f"{done.output}{done.exception}"
    assert not Path("sparring-hardened/state.pt").exists()


def test_names_that_the_shell_completes_are_known() -> None:
    assert set(command.METHODS) == set(METHODS)


def test_time_left_is_readable() -> None:
    event = TrainingProgress(1, 2, 10, 20, 0.5, 75.4)
    assert command._left(event) == ", 1:15 of training left"
    assert command._left(TrainingProgress(1, 2, 0, 20, None, None)) == ""


@pytest.mark.slow
def test_imagenet_lite_is_fine_tuned_on_photographs() -> None:
    """End to end through the documented command; seven pictures prove nothing about accuracy."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("skimage")
    done = run(
        "-m", "imagenet-lite0", "-d", "photos", "--eps", "4/255", "--epochs", "2", "--batch-size", "4", "--lr", "1e-4",
        "--validation", "2", "--freeze", "*_blocks.*", "--freeze", "*_conv_stem.*", "--freeze", "*_bn*",
        "--effort", "none",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    card = json.loads(Path("sparring-hardened/card.json").read_text())
    assert len(card["history"]) == 2
    assert Path("sparring-hardened/model.safetensors").stat().st_size > 10**7


DECLARED = """
[model]
spec = "nets.py:net"
[data]
source = "digits"
n = 100
[threat]
eps = 0.1
[harden]
method = "n_fgsm:noise=1"
epochs = 2
final = "none"
settings = { lr = 0.02, watch = 20 }
"""


def test_declared_in_the_file_with_flags_laid_over_it() -> None:
    Path("sparring.toml").write_text(DECLARED)
    done = run("--epochs", "1", "--set", "lr=0.01", "--out", "robust")
    assert done.exit_code == 0, done.output
    card = json.loads(Path("robust/card.json").read_text())
    assert card["recipe"]["lr"] == 0.01
    assert card["recipe"]["epochs"] == 1
    assert "n_fgsm" in json.dumps(card)
    assert card["after"] is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 0.02", "speed = 0.02", "speed"),
        ("lr = 0.02", "lr = { a = 1 }", "lr must be a number"),
        ('final = "none"', 'final = "strong"', "unknown effort 'strong'"),
        ("epochs = 2", "epochs = 0", "epochs"),
        ("n_fgsm:noise=1", "magic", "magic"),
    ],
)
def test_a_wrong_declaration_is_explained(old: str, new: str, message: str) -> None:
    Path("sparring.toml").write_text(DECLARED.replace(old, new))
    done = run("--out", "robust")
    assert done.exit_code != 0
    assert message in str(done.exception)
    assert not Path("robust").exists()
