"""A sparring partner for image classifiers: attack, explain, harden, layer, guard."""

from sparring import attacks
from sparring.goal import Targeted, Untargeted
from sparring.threat import ThreatModel

__version__ = "0.1.0"
__all__ = ["Targeted", "ThreatModel", "Untargeted", "attacks"]
