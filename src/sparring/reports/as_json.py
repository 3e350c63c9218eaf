"""The report as JSON: what `load_report` reads back."""

from __future__ import annotations

import json

from sparring.auditing.report import Report


def render(report: Report) -> str:
    """Indented JSON of the whole report.

    A half of a surrogate pair (from a file name that is no text) has no UTF-8 form and becomes ``?``.
    """
    text = json.dumps(report.model_dump(), indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="replace").decode("utf-8") + "\n"
