"""Evaluation: attacks in order of cost on the images that still stand, with records that outlive a kill."""

from sparring.evaluation.adversarials import Adversarials
from sparring.evaluation.corrupted import CorruptionTable, corruption_accuracy
from sparring.evaluation.curve import Curve, robustness_curve
from sparring.evaluation.driver import EvaluationInterrupted, evaluate
from sparring.evaluation.effort import EFFORTS
from sparring.evaluation.evaluation import Evaluation, StageSummary
from sparring.evaluation.progress import Progress
from sparring.evaluation.records import Record
from sparring.evaluation.union import UnionEvaluation, evaluate_union
from sparring.evaluation.verify import verify

__all__ = [
    "EFFORTS",
    "Adversarials",
    "CorruptionTable",
    "Curve",
    "Evaluation",
    "EvaluationInterrupted",
    "Progress",
    "Record",
    "StageSummary",
    "UnionEvaluation",
    "corruption_accuracy",
    "evaluate",
    "evaluate_union",
    "robustness_curve",
    "verify",
]
