"""Evaluation: attacks in order of cost on the images that still stand, with records that outlive a kill."""

from sparring.evaluation.curve import Curve, robustness_curve
from sparring.evaluation.driver import EvaluationInterrupted, Progress, evaluate
from sparring.evaluation.effort import EFFORTS
from sparring.evaluation.evaluation import Evaluation, StageSummary
from sparring.evaluation.records import Adversarials, Record

__all__ = [
    "EFFORTS",
    "Adversarials",
    "Curve",
    "Evaluation",
    "EvaluationInterrupted",
    "Progress",
    "Record",
    "StageSummary",
    "evaluate",
    "robustness_curve",
]
