"""The numbers on the page beside other libraries are those of the records and of the tables."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

from scripts import docs_families

from sparring.auditing import FINDINGS
from sparring.certification import METHODS as CERTIFICATES
from sparring.defenses.detectors import DETECTORS
from sparring.defenses.transforms import TRANSFORMS
from sparring.hardening import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGE = " ".join((ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").split())
RESULTS = ROOT / "bench" / "results"


def test_what_is_in_the_box_is_counted() -> None:
    masked = next(each for each in docs_families.FINDINGS if each.title == "Masked gradients")
    assert f"| {len(masked.names)} of {len(FINDINGS)} [findings]" in PAGE
    assert f"| transforms | {len(TRANSFORMS)} |" in PAGE
    assert f"| detectors | {len(DETECTORS)} and a two-sample test |" in PAGE
    assert f"| {len(METHODS) - 1} methods, with a watch" in PAGE, "`clean` is no defense"
    assert {"crown", "crown-ibp", "ibp", "lipschitz", "smoothing"} == set(CERTIFICATES)


def test_the_races_are_those_of_the_records() -> None:
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((RESULTS / "arsenal").glob("*.json"))]
    rows = [row for file in files for row in file["rows"]]
    missed = [row for row in rows if row["misses"]]
    assert f"Of {len(rows)} such races {len(rows) - len(missed)} missed none" in PAGE
    assert f"took {statistics.median(row['time_ratio'] for row in rows):.2f} times the peer's CPU seconds" in PAGE
    assert len(missed) == 4
    for row in missed:
        if "success" in row["misses"]:
            said = f"{row['sparring']['fooled']:.1f} % fooled, theirs {row['theirs']['fooled']:.1f} %"
        elif "distance" in row["misses"]:
            said = f"median distance {row['distance_ratio']:.3f} times theirs"
        else:
            said = f"{row['time_ratio']:.2f} times their time"
        assert said in PAGE


def test_the_verdicts_are_those_of_the_records() -> None:
    rows = json.loads((RESULTS / "verdict-standard.json").read_text(encoding="utf-8"))["rows"]
    differences = [row["difference"] for row in rows]
    assert f"between {-min(differences)} images below and {max(differences)} above it on nine nets" in PAGE
    assert len(rows) == 9
    assert {row["n"] for row in rows} == {797, 1000}
    trained = [row["passes"]["ratio"] for row in rows if "pgd" in row["model"] or row["model"] == "scaled100"]
    assert len(trained) == 4
    assert f"between 1/{min(trained):.0f} and 1/{max(trained):.0f} of AutoAttack's passes" in PAGE


def test_it_is_dated() -> None:
    assert re.search(r"As of \w+ 20\d\d", PAGE)
