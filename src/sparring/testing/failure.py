"""A report as the text of a failed test: what was asked, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sparring.auditing.report import Report
from sparring.reports import numbers
from sparring.reports.selections import undermining
from sparring.reports.text import one_line as harmless

WORST = 4
"""Attacks, and pictures, that a failure names."""


def one_line(report: Report) -> str:
    """The verdict in one line, for the end of a test run."""
    robust = numbers.with_bounds(report.evaluation.robust_accuracy)
    verdict = "" if report.gate is None else "passed: " if report.gate.passed else "FAILED: "
    doubts = ", ".join(dict.fromkeys(finding.code for finding in undermining(report)))
    said = f"{verdict}{report.subject.model} on {report.subject.data}, {_threat(report)}: robust accuracy {robust}"
    return harmless(said + (f", not to be believed ({doubts})" if doubts else ""))


def explained(report: Report, files: Sequence[Path] = ()) -> str:
    """Several lines: the reason first, then the numbers, the attacks that broke most, the findings, the next step."""
    reason = "the model is not robust enough" if report.gate is None else report.gate.reason
    rows = list(_rows(report, files))
    width = max(len(name) for name, _ in rows)
    return "\n".join([reason, "", *(f"  {name:<{width}}  {harmless(text)}" for name, text in rows)])


def _threat(report: Report) -> str:
    return f"{report.attacker.norm} eps {report.attacker.eps_text}"


def _rows(report: Report, files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    evaluation, mark = report.evaluation, report.gate
    yield "model", f"{report.subject.model} on {report.subject.data}, {numbers.counted(report.subject.images, 'image')}"
    yield "attacker", f"{_threat(report)}, {report.effort} effort, seed {report.seed}"
    yield "clean accuracy", numbers.with_bounds(evaluation.clean_accuracy)
    asked = "" if mark is None else f"; asked: at least {numbers.percent(mark.fail_under)} at the interval's lower end"
    yield "robust accuracy", numbers.with_bounds(evaluation.robust_accuracy) + asked
    for stage in sorted(evaluation.stages, key=lambda stage: -stage.broke)[:WORST]:
        if stage.broke:
            yield "broken by", f"{stage.attack}: {numbers.count(stage.broke)} of {numbers.count(stage.tried)} tried"
    for picture in report.pictures[:WORST]:
        fell = f"image {picture.index}, {picture.label}, taken for {picture.after}"
        yield "for example", f"{fell} ({numbers.percent(picture.after_confidence)})"
    for finding in undermining(report):
        yield f"[{finding.code}]", f"{finding.evidence}. {finding.remedy}"
    if files:
        yield "report", ", ".join(str(file) for file in files)
    else:
        yield "report", 'pytest --sparring-reports FOLDER writes it; or error.report.save("report.html")'
