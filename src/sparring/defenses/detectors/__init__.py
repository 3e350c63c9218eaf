"""Detectors beside a model: one file each, and the table that `sparring.toml`, tests and documentation read."""

from sparring.defenses.detectors.base import Detector
from sparring.defenses.detectors.declared import detector_from
from sparring.defenses.detectors.energy import Energy
from sparring.defenses.detectors.feature_squeezing import FeatureSqueezing
from sparring.defenses.detectors.fitted import Fitted, load_detector
from sparring.defenses.detectors.kernel_density import KernelDensity
from sparring.defenses.detectors.lid import LID
from sparring.defenses.detectors.mahalanobis import Mahalanobis
from sparring.defenses.detectors.margin import Margin
from sparring.defenses.detectors.max_softmax import MaxSoftmax
from sparring.defenses.detectors.mmd import MMD, FittedMMD, load_mmd
from sparring.defenses.detectors.odds import Odds
from sparring.defenses.detectors.reconstruction import Reconstruction
from sparring.defenses.detectors.statistics import Statistics

DETECTORS: dict[str, type[Detector]] = {
    "feature_squeezing": FeatureSqueezing,
    "max_softmax": MaxSoftmax,
    "margin": Margin,
    "energy": Energy,
    "mahalanobis": Mahalanobis,
    "kernel_density": KernelDensity,
    "lid": LID,
    "odds": Odds,
    "reconstruction": Reconstruction,
    "statistics": Statistics,
}
"""Name to class. A new detector is one new file and one line here."""

__all__ = [
    "DETECTORS",
    "LID",
    "MMD",
    "Detector",
    "Energy",
    "FeatureSqueezing",
    "Fitted",
    "FittedMMD",
    "KernelDensity",
    "Mahalanobis",
    "Margin",
    "MaxSoftmax",
    "Odds",
    "Reconstruction",
    "Statistics",
    "detector_from",
    "load_detector",
    "load_mmd",
]
