"""The public API, pinned: a name that appears or disappears must be meant, and gets a line in the changelog."""

from __future__ import annotations

import inspect
from types import ModuleType

import sparring
from sparring import attacks

PUBLIC = [
    "Estimate",
    "Evaluation",
    "Report",
    "SparringError",
    "Targeted",
    "ThreatModel",
    "Untargeted",
    "attack_image",
    "attacks",
    "audit",
    "evaluate",
    "load_data",
    "load_image",
    "load_model",
    "reports",
    "robustness_curve",
]


def test_the_public_names() -> None:
    assert sorted(sparring.__all__) == PUBLIC
    for name in PUBLIC:
        assert inspect.getdoc(getattr(sparring, name)), f"sp.{name} has no docstring"


def test_nothing_else_is_offered() -> None:
    """A name without an underscore is either promised or a package, which `import sparring` may bring along."""
    extra = {
        name
        for name, thing in vars(sparring).items()
        if not name.startswith("_") and name not in PUBLIC and not isinstance(thing, ModuleType)
    }
    assert extra == set()


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
        "audit": ("model", "images", "labels", "threat", "effort", "seed", "fail_under"),
    }
    for name, arguments in promised.items():
        assert set(arguments) <= set(inspect.signature(getattr(sparring, name)).parameters), name
    for attribute in ("clean_accuracy", "robust_accuracy", "records", "adversarials", "missed_bound"):
        known = {*dir(sparring.Evaluation), *sparring.Evaluation.__dataclass_fields__}
        assert attribute in known, attribute
