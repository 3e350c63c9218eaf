"""Who may import whom: read from the source, without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
ROOMS = {
    "perturbations": {"perturbations"},
    "attacks": {"attacks", "perturbations"},
    "certification": {"certification"},
    "evaluation": {"evaluation", "certification", "attacks", "perturbations"},
    "diagnosis": {"diagnosis", "evaluation", "certification", "attacks", "perturbations"},
    "auditing": {"auditing", "certification", "diagnosis", "evaluation", "attacks", "perturbations"},
    "defenses": {"defenses", "evaluation", "attacks", "perturbations"},
    "hardening": {"hardening", "certification", "evaluation", "attacks", "perturbations"},
    "reports": {"reports"},
    "loading": {"loading", "bridges"},
    "bridges": {"bridges"},
    "guard": {"guard", "attacks", "auditing", "bridges", "defenses", "evaluation", "loading"},
    "lab": {"lab", "attacks", "auditing", "defenses", "evaluation", "hardening", "loading"},
    "testing": {"testing", "attacks", "auditing", "bridges", "evaluation", "loading", "reports"},
    "cli": {
        "cli",
        "attacks",
        "certification",
        "evaluation",
        "auditing",
        "defenses",
        "diagnosis",
        "guard",
        "hardening",
        "lab",
        "reports",
        "loading",
        "bridges",
    },
}
"""Room to the rooms it may import from; everyone may import the flat files."""
ALSO = {
    "bridges": {"sparring.loading.limits", "sparring.loading.paths", "sparring.loading.reason"},
    "reports": {
        "sparring.auditing.report",
        "sparring.certification.certificate",
        "sparring.defenses.comparison",
        "sparring.diagnosis.result",
    },
}
"""Single modules of other rooms."""
FORBIDDEN = {"reports": {"torch"}, "cli": {"torch", "numpy"}}
"""Third parties that a room must not name."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in SRC.rglob("*.py")}
FLAT = {name for name in MODULES if name.count(".") == 1 and not (SRC / name.replace(".", "/")).is_dir()}


def imported(tree: ast.AST) -> set[str]:
    """Full names of the modules imported anywhere below `tree`; what is no module stands for the module it is in."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                found.add(full if full in MODULES else module)
    return found


def room(module: str) -> str:
    """The room of a module of ours; "" for a flat file and for the root."""
    return "" if module in FLAT or module == "sparring" else module.split(".")[1]


def top_level(tree: ast.Module) -> ast.Module:
    """Without function bodies and without what only type checkers see: the imports that happen on import."""
    body = [n for n in tree.body if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If))]
    return ast.Module(body=body, type_ignores=[])


def test_every_room_has_a_rule() -> None:
    assert {room(name) for name in MODULES} == {"", *ROOMS}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"sparring"}))
def test_imports_go_down_only(module: str) -> None:
    here = room(module)
    allowed = ROOMS.get(here, set())
    for name in imported(MODULES[module]):
        if name.split(".")[0] != "sparring":
            assert name.split(".")[0] not in FORBIDDEN.get(here, set()), f"{module} must not import {name}"
        elif name == "sparring":
            asked = {
                alias.name
                for node in ast.walk(MODULES[module])
                if isinstance(node, ast.ImportFrom) and node.module == "sparring"
                for alias in node.names
                if f"sparring.{alias.name}" not in MODULES
            }
            assert asked <= {"__version__"}, f"{module} must not import {sorted(asked)} from the top"
        else:
            fine = name in FLAT or room(name) in allowed or name in ALSO.get(here, set())
            assert fine, f"{module} must not import {name}"


def test_nothing_imports_the_command_line() -> None:
    for module, tree in MODULES.items():
        if room(module) != "cli":
            assert not any(name.startswith("sparring.cli") for name in imported(tree)), module


def test_there_are_no_cycles() -> None:
    graph = {module: imported(top_level(tree)) & set(MODULES) - {module} for module, tree in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
