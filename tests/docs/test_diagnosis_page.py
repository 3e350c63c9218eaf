"""The tables of the diagnosis page are those of the records in bench/results/diagnose."""

from __future__ import annotations

import json
from pathlib import Path

from sparring.diagnosis.result import Models
from sparring.reports.models import HEADS, cells

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_models_that_were_not_seen_before() -> None:
    rows = json.loads((ROOT / "bench" / "results" / "diagnose" / "unseen.json").read_text())
    said = (ROOT / "docs" / "diagnosis.md").read_text().splitlines()
    assert len(rows["masked"]) >= 20
    for name, row in rows["masked"].items():
        found = ", ".join(row["findings"])
        line = f"| {name} | {found} | {100 * row['robust']:.1f} % | {100 * row['truth']:.1f} % |"
        assert line in said, line
        assert row["right"], name
    assert len(rows["honest"]) >= 20
    assert all(not row["findings"] and row["believable"] for row in rows["honest"].values())


def test_the_audit_is_not_more_than_a_point_above_any_reference() -> None:
    rows = json.loads((ROOT / "bench" / "results" / "diagnose" / "unseen.json").read_text())["masked"]
    above = {name: row["robust"] - row["truth"] for name, row in rows.items() if row["robust"] > row["truth"] + 0.01}
    assert set(above) <= {"random-shift"}, above


def test_what_autoattack_leaves() -> None:
    rows = json.loads((ROOT / "bench" / "results" / "diagnose" / "unseen-autoattack.json").read_text())
    said = (ROOT / "docs" / "diagnosis.md").read_text().replace("\n", " ")
    for name in ("signs", "steep-hard-sigmoid"):
        assert f"{100 * rows[name]['masked']:.1f} %" in said
        assert f"{100 * rows[name]['with_twin']:.1f} %" in said


def test_the_same_net_with_three_activations() -> None:
    record = json.loads((ROOT / "bench" / "results" / "diagnose" / "activations.json").read_text())
    plain = record.pop("pgd")
    found = Models.model_validate({name: record[name] for name in Models.model_fields})
    said = (ROOT / "docs" / "diagnosis.md").read_text()
    assert f"| model | {' | '.join(HEADS)} |\n" in said
    for row in found.rows:
        assert f"| {row.name} | {' | '.join(cells(row))} |\n" in said
        assert f"{100 * plain[row.name]:.1f} %" in said
        assert row.robust.value <= plain[row.name]
        assert not row.doubts
