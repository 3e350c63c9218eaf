"""The shape of the code that the house style promises: short files, no print, no bare except, no stray assert."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
FILES = sorted(SRC.rglob("*.py"))
LONGEST = 320
RUNS_TEXT = {"print", "eval", "exec", "breakpoint", "input"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_file_is_short_and_clean(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    assert len(lines) <= LONGEST, f"{len(lines)} lines: give it a second concept's file"
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "a file begins with one line on what it is"
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in RUNS_TEXT, f"{where}: {node.func.id}() in library code"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: a bare except"
        if isinstance(node, ast.Assert):
            said = "# noqa: S101 - " in lines[node.lineno - 1]
            assert said, f"{where}: assert on user input? Raise an InputError; else say why it can't fail"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
            mutable = [d for d in defaults if isinstance(d, (ast.List, ast.Dict, ast.Set))]
            assert not mutable, f"{where}: a mutable default"
