"""A sparring partner for image classifiers: attack, explain, harden, layer, guard."""

from typing import TYPE_CHECKING

from sparring import _lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sparring import attacks, defenses, perturbations, reports
    from sparring.auditing import Report, attack_image, compare_reports
    from sparring.auditing.audit import audit
    from sparring.black_box import BlackBox
    from sparring.certification import Certificate
    from sparring.certification.certify import certify
    from sparring.defenses import StackOutcome
    from sparring.defenses.adaptive import evaluate_stack
    from sparring.diagnosis import Diagnosis
    from sparring.diagnosis.diagnose import diagnose
    from sparring.errors import SparringError
    from sparring.estimate import Estimate
    from sparring.evaluation import Evaluation, corruption_accuracy, evaluate, evaluate_union, robustness_curve
    from sparring.evaluation.verify import verify
    from sparring.goal import Targeted, Untargeted
    from sparring.hardening import Hardened
    from sparring.hardening.harden import harden
    from sparring.loading import load_data, load_image, load_model
    from sparring.surrogates import bpda
    from sparring.targets import choose_targets
    from sparring.threat import ThreatModel

__all__ = [
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

_HOMES = {
    "auditing": ("Report", "attack_image", "audit", "compare_reports"),
    "black_box": ("BlackBox",),
    "certification": ("Certificate", "certify"),
    "defenses": ("StackOutcome", "evaluate_stack"),
    "diagnosis": ("Diagnosis", "diagnose"),
    "errors": ("SparringError",),
    "estimate": ("Estimate",),
    "evaluation": ("Evaluation", "corruption_accuracy", "evaluate", "evaluate_union", "robustness_curve", "verify"),
    "goal": ("Targeted", "Untargeted"),
    "hardening": ("Hardened", "harden"),
    "loading": ("load_data", "load_image", "load_model"),
    "surrogates": ("bpda",),
    "targets": ("choose_targets",),
    "threat": ("ThreatModel",),
}
"""Where a public name is imported from when it is first used: `import sparring` itself takes no time. The names stand
here, in `__all__` and above for type checkers; a test keeps the three equal."""


if not TYPE_CHECKING:  # with it a type checker would believe in any name

    def __getattr__(name: str) -> object:
        return _lazy.find(__name__, name, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()} - {"TYPE_CHECKING"})
