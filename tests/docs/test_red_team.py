"""examples/red-team: its files can be read and its commands exist; the whole of it runs (slow)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from sparring.cli import app
from sparring.loading import load_config, load_model
from sparring.loading.builtin_data import FASHION_FOLDER

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "red-team"
STEPS = ("attack", "audit", "harden", "layer", "guard", "spar", "re-audit")
MADE = (
    "attack/result.json",
    "audit/report.html",
    "hardened/card.md",
    "stack/stack.json",
    "layers.html",
    "profile.json",
    "benign.json",
    "spar.json",
    "re-audit/report.html",
)


def commands() -> list[list[str]]:
    """What `make` would run of sparring, every command as its words."""
    told = subprocess.run(
        ["make", "--dry-run", "--always-make", "SPARRING=sparring"], cwd=EXAMPLE, check=True, capture_output=True
    )
    lines = re.split(r"[;&|\n]", told.stdout.decode().replace("\\\n", " "))
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("sparring ")]


def test_the_commands_exist_with_the_flags_they_use() -> None:
    group: Any = typer.main.get_command(app)
    found = commands()
    assert [line[0] for line in found] == ["attack", "audit", "harden", "fit", "compare", *["guard"] * 4, "audit"]
    for line in found:
        command, rest = group, line
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context("sparring", [*rest]).close()  # parses, and runs nothing


def test_what_is_declared_can_be_read() -> None:
    standard, guarded = (load_config(EXAMPLE / name) for name in ("standard.toml", "guarded.toml"))
    assert standard.stack is None
    assert guarded.stack is not None
    assert guarded.guard is not None
    assert guarded.guard.profile == EXAMPLE / "out" / "profile.json"
    assert (standard.data, standard.threat) == (guarded.data, guarded.threat)
    net = load_model(f"{EXAMPLE / 'victim.py'}:build")
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    weights = sum(each.numel() for each in net.parameters())
    assert f"{weights:,} weights" in (EXAMPLE / "victim.py").read_text()


def test_every_output_is_described() -> None:
    tutorial, readme = (path.read_text() for path in (ROOT / "docs" / "tutorial.md", EXAMPLE / "README.md"))
    for name in MADE:
        assert f"`{name}`" in tutorial, name
    for step in STEPS:
        assert f"`{step}`" in readme, step
    assert "/examples/red-team/out/" in (ROOT / ".gitignore").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is missing")
def test_the_whole_exercise(tmp_path: Path) -> None:
    folder = tmp_path / "red-team"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("out"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = ["make", f"BIN={Path(sys.executable).parent}/", f"PORT={port}"]
    subprocess.run(run, cwd=folder, check=True)
    out = folder / "out"
    assert all((out / name).is_file() for name in MADE)
    before, after = (
        json.loads((out / name / "report.json").read_text())["evaluation"] for name in ("audit", "re-audit")
    )
    assert before["robust_accuracy"]["value"] < 0.1
    assert after["robust_accuracy"]["value"] > 0.35
    sparred = json.loads((out / "spar.json").read_text())
    for attack in ("square", "hopskipjump"):
        assert sparred[attack]["summary"]["alert before success"] >= sparred[attack]["summary"]["judged"] / 2
    again = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True).stdout
    assert "sparring" not in again, "what is there is not made again"
