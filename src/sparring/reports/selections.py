"""What the renderers pick from a report: findings in order, the worst classes, the fate of the images."""

from __future__ import annotations

from dataclasses import dataclass

from sparring.auditing.report import ClassRow, Finding, Report

SEVERITIES = ("critical", "warning", "note")


def sorted_findings(report: Report) -> list[Finding]:
    """Findings by severity; within one, what is open before what is resolved, what undermines first."""
    return sorted(report.findings, key=lambda f: (SEVERITIES.index(f.severity), f.resolved, not f.undermines, f.code))


def undermining(report: Report) -> list[Finding]:
    """The open findings for which the robust accuracy cannot be believed."""
    return [f for f in sorted_findings(report) if f.undermines and not f.resolved]


def worst_classes(report: Report, limit: int) -> list[ClassRow]:
    """At most `limit` classes, the least robust first; classes without images come last."""

    def rank(row: ClassRow) -> tuple[float, float, int]:
        robust = 2.0 if row.robust.value is None else row.robust.value
        clean = 2.0 if row.clean.value is None else row.clean.value
        return robust, clean, row.label

    return sorted(report.classes, key=rank)[:limit]


@dataclass(frozen=True)
class Fate:
    """What became of the images: wrong before any attack, broken by one, still standing."""

    wrong: int
    broken: int
    standing: int

    @property
    def total(self) -> int:
        """All images."""
        return self.wrong + self.broken + self.standing


def fate(report: Report) -> Fate | None:
    """Counted from the records; None where there are none."""
    records = report.evaluation.records
    if not records:
        return None
    broken = sum(r.broken_by is not None for r in records)
    wrong = sum(r.broken_by is None and r.prediction != r.label for r in records)
    return Fate(wrong, broken, len(records) - broken - wrong)
