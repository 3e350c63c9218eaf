"""What the renderers pick from a report: findings in order, the worst classes, the fate of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from sparring.auditing.report import ClassRow, Curve, Finding, Interval, Report

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
class CurveGroup:
    """The curves of one norm: their points as rows of epsilon, whether that is the budget, and one cell per curve."""

    norm: str
    budget: float | None
    curves: tuple[Curve, ...]

    @property
    def intervals(self) -> list[Interval]:
        """Every accuracy of the group."""
        return [point.accuracy for curve in self.curves for point in curve.points]

    def rows(self, columns: int | None = None) -> Iterator[tuple[float, bool, tuple[Interval | None, ...]]]:
        """In rising order of epsilon, for the first `columns` curves (None for all)."""
        cells = [{point.eps: point.accuracy for point in curve.points} for curve in self.curves[:columns]]
        for eps in sorted({eps for column in cells for eps in column}):
            at_budget = self.budget is not None and abs(eps - self.budget) < 1e-9
            yield eps, at_budget, tuple(column.get(eps) for column in cells)


def curve_groups(report: Report) -> list[CurveGroup]:
    """The curves that have points, by norm; the norm of the attacker comes first."""
    own = report.attacker.norm
    drawable = sorted((c for c in report.curves if c.points), key=lambda c: (c.norm != own, c.norm))
    by_norm = groupby(drawable, key=lambda c: c.norm)
    return [CurveGroup(norm, report.attacker.eps if norm == own else None, tuple(some)) for norm, some in by_norm]


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
