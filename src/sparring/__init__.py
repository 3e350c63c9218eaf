"""A sparring partner for image classifiers: attack, explain, harden, layer, guard."""

__version__ = "0.1.0"

from sparring import attacks, reports
from sparring.auditing import Report, attack_image, audit
from sparring.errors import SparringError
from sparring.estimate import Estimate
from sparring.evaluation import Evaluation, evaluate, robustness_curve
from sparring.goal import Targeted, Untargeted
from sparring.loading import load_data, load_image, load_model
from sparring.threat import ThreatModel

__all__ = [
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
