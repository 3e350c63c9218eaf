"""The page on other libraries shows the bench's records, all of them and nothing else."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


def test_the_page_holds_the_tables_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    arsenal, tables = importlib.import_module("arsenal"), importlib.import_module("tables")
    expected = [tables.speed(), tables.verdict(), arsenal.markdown(arsenal.kept(arsenal.attacks()))]
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert rows == [row for table in expected for row in table.splitlines()], "python bench/tables.py --write"


def test_every_record_is_of_a_known_attack_and_says_what_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    arsenal = importlib.import_module("arsenal")
    found = {path.stem for path in arsenal.RESULTS.glob("*.json")}
    assert found <= set(arsenal.attacks())
    for name in found:
        for row in json.loads((arsenal.RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]:
            less = row["sparring"]["fooled"] < row["theirs"]["fooled"]
            slow = row["time_ratio"] > row["time_limit"]
            far = row["distance_ratio"] is not None and row["distance_ratio"] > 1.02
            assert set(row["misses"]) == {
                w for w, true in (("success", less), ("time", slow), ("distance", far)) if true
            }
