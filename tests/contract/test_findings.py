"""Every finding has a page made from the code, a test in which a model raises it, and one in which a model must not.

Read from the tests themselves: `found(report, code)` asserted, taken apart or indexed says that it was raised, `not
found(report, code)` that it was not, and a set of codes that a report must equal spares all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.auditing import FINDINGS

TESTS = Path(__file__).parents[1] / "edges"


def functions() -> Iterator[ast.FunctionDef]:
    for path in sorted(TESTS.glob("test_auditing*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node


def asked(node: ast.AST) -> Iterator[str]:
    """Codes that `found` or `raised` is called with, anywhere inside."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("found", "raised"):
            yield from (arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def raises(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and not is_not(node.test):
            yield from asked(node.test)
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Tuple) for target in node.targets):
            yield from asked(node.value)
        if isinstance(node, ast.Subscript):
            yield from asked(node.value)


def spares(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if not isinstance(node, ast.Assert):
            continue
        if is_not(node.test):
            yield from asked(node.test)
        test = node.test
        if (
            isinstance(test, ast.Compare)
            and isinstance(test.ops[0], ast.Eq | ast.LtE)
            and "code" in ast.dump(test.left)
        ):
            kept = test.comparators[0]
            if isinstance(kept, ast.Set) and "report.findings" in ast.unparse(test.left):
                yield from set(FINDINGS) - {part.value for part in kept.elts if isinstance(part, ast.Constant)}


RAISED = {code for function in functions() for code in raises(function)}
SPARED = {code for function in functions() for code in spares(function)}


@pytest.mark.parametrize("code", FINDINGS)
def test_a_finding_has_a_model_that_raises_it_and_one_that_must_not(code: str) -> None:
    assert code in RAISED, f"no test of the audit expects {code!r}"
    assert code in SPARED, f"no test of the audit expects that an honest model is spared {code!r}"


def test_a_test_that_expects_nothing_is_not_counted() -> None:
    text = 'def test_it():\n    found(report, "evasion")\n    assert not found(report, "no-gradient")\n'
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    assert list(raises(function)) == []
    assert list(spares(function)) == ["no-gradient"]
