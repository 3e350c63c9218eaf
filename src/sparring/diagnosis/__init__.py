"""Diagnosis: why a model falls, and whether its robustness is an illusion."""

from sparring.diagnosis.diagnose import diagnose
from sparring.diagnosis.result import Diagnosis

__all__ = ["Diagnosis", "diagnose"]
