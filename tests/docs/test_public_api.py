"""The public API, pinned: a name that appears or disappears must be meant, and gets a line in the changelog."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import sparring
from sparring import attacks, loading

PUBLIC = [
    "BlackBox",
    "Certificate",
    "Diagnosis",
    "Estimate",
    "Evaluation",
    "Hardened",
    "Report",
    "SparringError",
    "StackOutcome",
    "Targeted",
    "ThreatModel",
    "Untargeted",
    "attack_image",
    "attacks",
    "audit",
    "bpda",
    "certify",
    "choose_targets",
    "compare_reports",
    "corruption_accuracy",
    "defenses",
    "diagnose",
    "evaluate",
    "evaluate_stack",
    "evaluate_union",
    "harden",
    "load_data",
    "load_image",
    "load_model",
    "perturbations",
    "reports",
    "robustness_curve",
    "verify",
]


def test_the_public_names() -> None:
    assert sorted(sparring.__all__) == PUBLIC
    for name in PUBLIC:
        assert inspect.getdoc(getattr(sparring, name)), f"sp.{name} has no docstring"


def test_nothing_else_is_offered() -> None:
    """A name without an underscore is either promised or a package, which `import sparring` may bring along."""
    offered = [name for name in dir(sparring) if not name.startswith("_")]
    assert [
        name for name in offered if name not in PUBLIC and not isinstance(getattr(sparring, name), ModuleType)
    ] == []


@pytest.mark.parametrize("package", [sparring, loading], ids=lambda package: package.__name__)
def test_a_lazy_package_promises_the_same_names_three_times(package: ModuleType) -> None:
    """In `__all__`, in the table of their homes, and in the imports that only type checkers see."""
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    homes = {name: home for home, names in package._HOMES.items() for name in names}
    packages = {name for name in package.__all__ if isinstance(getattr(package, name), ModuleType)}
    assert set(package.__all__) == set(seen) == set(homes) | packages
    for name, home in homes.items():
        assert f"{package.__name__}.{home}" in (seen[name], (seen[name] or "").rpartition(".")[0]), name


def test_a_lazy_package_knows_its_modules_and_nothing_else() -> None:
    assert sparring.model.OutputAdapter
    for wrong in ("audti", "_nothing", "PGD"):
        with pytest.raises(AttributeError, match=wrong):
            getattr(sparring, wrong)
    with pytest.raises(ImportError):
        exec("from sparring import audti")


def test_every_attack_of_the_table_can_be_imported_by_its_class_name() -> None:
    for name, kind in attacks.ATTACKS.items():
        assert getattr(attacks, kind.__name__) is kind, name
        assert kind.__name__ in attacks.__all__, name


def test_names_that_other_programs_call_have_the_promised_arguments() -> None:
    promised = {
        "load_model": ("spec", "weights", "mean", "std"),
        "load_data": ("spec", "n"),
        "ThreatModel": ("norm", "eps", "bounds", "mask"),
        "evaluate": ("model", "images", "labels", "threat", "attacks", "effort", "seed", "batch_size"),
        "robustness_curve": ("model", "images", "labels", "norm", "eps"),
        "harden": ("model", "data", "threat", "method", "epochs", "seed"),
        "audit": ("model", "images", "labels", "threat", "effort", "seed", "fail_under"),
    }
    for name, arguments in promised.items():
        assert set(arguments) <= set(inspect.signature(getattr(sparring, name)).parameters), name
    for attribute in ("clean_accuracy", "robust_accuracy", "records", "adversarials", "missed_bound"):
        known = {*dir(sparring.Evaluation), *sparring.Evaluation.__dataclass_fields__}
        assert attribute in known, attribute
