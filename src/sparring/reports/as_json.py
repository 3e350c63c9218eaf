"""The report as JSON: what `load_report` reads back."""

from __future__ import annotations

import json

from sparring.auditing.report import Report


def render(report: Report) -> str:
    """Indented JSON of the whole report, with one line per record of an image: there may be many.

    A half of a surrogate pair (from a file name that is no text) has no UTF-8 form and becomes ``?``.
    """
    plain = report.model_dump()
    records = [
        json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        for record in plain["evaluation"]["records"]
    ]
    plain["evaluation"]["records"] = []
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    if records:
        # Inside a JSON string a quote is escaped, so this can only be the empty list itself.
        text = text.replace('"records": []', '"records": [\n      ' + ",\n      ".join(records) + "\n    ]", 1)
    return text.encode("utf-8", errors="replace").decode("utf-8") + "\n"
