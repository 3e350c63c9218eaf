"""The audit: preflight, evaluation, curves, checks, findings, in one report."""

from sparring.auditing.audit import AuditInterrupted, audit
from sparring.auditing.findings import FINDINGS
from sparring.auditing.report import Finding, Report, load_report

__all__ = ["FINDINGS", "AuditInterrupted", "Finding", "Report", "audit", "load_report"]
