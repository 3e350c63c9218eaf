"""The numbers on the page beside other libraries are those of the records and of the tables."""

from __future__ import annotations

import re
from pathlib import Path

from scripts import docs_families, docs_measured

from sparring.auditing import FINDINGS
from sparring.certification import METHODS as CERTIFICATES
from sparring.defenses.detectors import DETECTORS
from sparring.defenses.transforms import TRANSFORMS
from sparring.hardening import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGE = " ".join((ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").split())


def test_what_is_in_the_box_is_counted() -> None:
    masked = next(each for each in docs_families.FINDINGS if each.title == "Masked gradients")
    assert f"| {len(masked.names)} of {len(FINDINGS)} [findings]" in PAGE
    assert f"| transforms | {len(TRANSFORMS)} |" in PAGE
    assert f"| detectors | {len(DETECTORS)} and a two-sample test |" in PAGE
    assert f"| {len(METHODS) - 1} methods, with a watch" in PAGE, "`clean` is no defense"
    assert {"crown", "crown-ibp", "ibp", "lipschitz", "smoothing"} == set(CERTIFICATES)


def test_the_races_that_missed_are_named() -> None:
    missed = [row for row in docs_measured.races() if row["misses"]]
    listed = PAGE.partition("Those that missed one:")[2].partition("Beside AutoAttack")[0]
    assert listed.count("| |") == 1 + len(missed), "a row per race"
    for row in missed:
        if "success" in row["misses"]:
            said = f"{row['sparring']['fooled']:.1f} % fooled, theirs {row['theirs']['fooled']:.1f} %"
        elif "distance" in row["misses"]:
            said = f"median distance {row['distance_ratio']:.3f} times theirs"
        else:
            said = f"{row['time_ratio']:.2f} times their time"
        assert said in listed


def test_the_nets_are_as_the_sentence_says() -> None:
    assert {row["n"] for row in docs_measured.verdicts()} == {797, 1000}
    assert len(docs_measured.trained()) == 4


def test_it_is_dated() -> None:
    assert re.search(r"As of \w+ 20\d\d", PAGE)
