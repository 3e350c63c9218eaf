"""The audit: preflight, evaluation, curves, checks, findings, in one report."""

from sparring.auditing.audit import AuditInterrupted, audit
from sparring.auditing.baseline import compare_reports
from sparring.auditing.exhibit import Exhibit, attack_image, attack_set
from sparring.auditing.findings import FINDINGS
from sparring.auditing.first_look import FirstLook, first_look
from sparring.auditing.report import Comparison, Finding, Report, load_report

__all__ = [
    "FINDINGS",
    "AuditInterrupted",
    "Comparison",
    "Exhibit",
    "Finding",
    "FirstLook",
    "Report",
    "attack_image",
    "attack_set",
    "audit",
    "compare_reports",
    "first_look",
    "load_report",
]
