"""Adversarial training: methods, a trainer that resumes exactly, a watch for the known failures, evidence."""

from sparring.hardening.draws import seeded
from sparring.hardening.harden import HardeningInterrupted, harden
from sparring.hardening.history import Epoch
from sparring.hardening.method import Batch, Criterion, Method
from sparring.hardening.methods import METHODS
from sparring.hardening.outcome import Hardened
from sparring.hardening.progress import TrainingProgress
from sparring.hardening.recipe import PRESETS, Recipe
from sparring.hardening.spec import parse_method

__all__ = [
    "METHODS",
    "PRESETS",
    "Batch",
    "Criterion",
    "Epoch",
    "Hardened",
    "HardeningInterrupted",
    "Method",
    "Recipe",
    "TrainingProgress",
    "harden",
    "parse_method",
    "seeded",
]
