"""The command line answers at once where nothing has to be computed, and knows the names without computing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main

from sparring.cli import app, main, options
from sparring.evaluation import EFFORTS
from sparring.loading import BUILTIN, DATA_SETS
from sparring.loading.names import DATA_SETS as DATA_SET_NAMES
from sparring.loading.names import MODELS
from sparring.model import OutputAdapter
from sparring.norms import NORMS

COMMANDS = typer.main.get_command(app).commands
RUNNER = """
import contextlib, io, json, os, sys
from sparring.cli import main

answers = []
for arguments, environment in json.load(sys.stdin):
    sys.argv, out, error = ["sparring", *arguments], io.StringIO(), io.StringIO()
    os.environ.update(environment)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    for name in environment:
        del os.environ[name]
    heavy = [m for m in ("torch", "numpy", "scipy", "PIL", "matplotlib") if m in sys.modules]
    answers.append([code, out.getvalue(), error.getvalue(), heavy])
print(json.dumps(answers))
"""
Answer = tuple[int, str, str, list[str]]


def runs(calls: list[tuple[list[str], dict[str, str]]], folder: Path) -> list[Answer]:
    """Exit code, output, errors and the heavy packages loaded so far, of one call after another in a fresh process."""
    environment = {**os.environ, "COLUMNS": "200", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
        check=True,
    )
    return [tuple(answer) for answer in json.loads(done.stdout)]


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    calls = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    for call, (code, out, _, heavy) in zip(calls, runs([(c, {}) for c in calls], tmp_path), strict=True):
        assert (code, heavy) == (0, []), call
        assert out.strip()


MISTAKES = [
    (["bogus"], "bogus"),
    (["audit", "--bogus"], "--bogus"),
    (["audit", "--n", "many"], "integer"),
    (["audit", "--config", "missing.toml"], "missing.toml"),
    (["audit"], "declares the model"),
    (["audit", "-m", "digits-cnn", "--eps", "8/0"], "8/0"),
    (["audit", "-m", "digits-cnn", "--eps", "0.1", "-n", "0"], "n: "),
    (["audit", "-m", "digits-cnn", "--norm", "l7", "--eps", "1"], "linf"),
    (["audit", "-m", "digits-cnn", "--mean", "a"], "--mean"),
    (["audit", "-m", "digits-cnn", "--report", "x.pdf"], ".html"),
    (["attack", "-m", "digits-cnn", "--size", "2.5"], "--size"),
    (["attack", "-m", "digits-cnn", "--label", "3"], "--label"),
    (["attack", "-m", "digits-cnn", "--image", "a.png", "--data", "digits"], "not both"),
    (["attack", "-m", "digits-cnn", "--out", "sparring.toml"], "sparring.toml"),
    (["init", "--out", "sparring.toml"], "--force"),
]


def test_a_mistake_in_the_flags_does_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "sparring.toml").write_text("[audit]\nseed = 1\n")
    for (call, said), (code, _, error, heavy) in zip(
        MISTAKES, runs([(c, {}) for c, _ in MISTAKES], tmp_path), strict=True
    ):
        assert (code, heavy) == (2, []), (call, error)
        assert said in error, call
        assert "Traceback" not in error, call


def test_a_reader_who_leaves_is_no_failed_gate(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['sparring', 'attack', '--list']; from sparring.cli import main; main()"
    call = [sys.executable, "-c", code]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=120) == 141


def test_import_sparring_does_not_wait_for_torch() -> None:
    code = "import sys, sparring, sparring.loading; print('torch' in sys.modules, 'PGD' in dir(sparring.attacks))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_names_known_without_torch_are_the_names() -> None:
    assert list(MODELS) == list(BUILTIN)
    assert list(DATA_SET_NAMES) == list(DATA_SETS)
    assert set(MODELS.values()) <= set(DATA_SETS)
    assert list(options.EFFORTS) == list(EFFORTS)
    assert options.OUTPUTS == OutputAdapter.KINDS
    assert set(options.DEFAULT_EPS) == set(NORMS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_that_takes_a_value_shows_one(command: str) -> None:
    for parameter in COMMANDS[command].params:
        if not getattr(parameter, "is_flag", True):  # an argument has no flag
            longest = max(parameter.opts, key=len)
            assert re.search(rf"{longest} [\w./\[]", parameter.help), f"{command} {longest}: {parameter.help}"


def test_the_shell_gets_a_completion_script(tmp_path: Path) -> None:
    shells = ("bash", "zsh", "fish")
    for code, out, error, _ in runs([(["--show-completion", shell], {}) for shell in shells], tmp_path):
        assert code == 0, error
        assert "_COMPLETE" in out


COMPLETIONS = {
    "sparring a": ["attack", "audit"],
    "sparring audit --effort ": list(EFFORTS),
    "sparring audit --model imagenet": ["imagenet-lite0", "imagenet-lite1", "imagenet-lite2"],
    "sparring audit --norm l": ["linf", "l2", "l1", "l0"],
    "sparring attack --data fa": ["fashion-mnist"],
    "sparring init --outputs prob": ["probabilities"],
    "sparring attack --list --cha": ["--channels"],
}


def test_the_shell_completes_commands_flags_and_values(tmp_path: Path) -> None:
    calls = [
        (
            [],
            {
                "_SPARRING_COMPLETE": "complete_bash",
                "COMP_WORDS": typed,
                "COMP_CWORD": str(len(typed.split()) - (typed[-1] != " ")),
            },
        )
        for typed in COMPLETIONS
    ]
    for (typed, offered), (_, out, error, heavy) in zip(COMPLETIONS.items(), runs(calls, tmp_path), strict=True):
        assert out.split() == offered, (typed, error)
        assert heavy == []


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_no_memory_left_says_what_to_do(monkeypatch, capsys, error):
    def full():
        raise error

    monkeypatch.setattr(sys.modules["sparring.cli"], "app", full)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "--batch-size" in capsys.readouterr().err
