"""JUnit XML: the counts add up, failures are what they should be, nothing in it is illegal in XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from tests.edges import reports_factory as factory

from sparring.reports import junit


def suite(report) -> ElementTree.Element:
    root = ElementTree.fromstring(junit.render(report))
    assert root.tag == "testsuites"
    return root.find("testsuite")


def outcome(element: ElementTree.Element, name: str) -> list[str]:
    return [child.tag for child in element.find(f"testcase[@name='{name}']")]


@pytest.mark.parametrize("make", [factory.sample, factory.bare, factory.hostile, factory.photos])
def test_the_counts_add_up(make) -> None:
    element = suite(make())
    cases = element.findall("testcase")
    assert int(element.get("tests")) == len(cases)
    assert int(element.get("failures")) == len(element.findall("testcase/failure"))
    assert int(element.get("errors")) == len(element.findall("testcase/error"))
    assert int(element.get("skipped")) == len(element.findall("testcase/skipped"))
    assert float(element.get("time")) == pytest.approx(sum(float(case.get("time")) for case in cases))
    names = [case.get("name") for case in cases]
    assert len(names) == len(set(names))
    assert element[0].tag == "properties"


def test_open_undermining_findings_and_the_gate_fail() -> None:
    element = suite(factory.sample())
    assert outcome(element, "gate") == ["failure"]
    assert outcome(element, "completeness") == []
    assert outcome(element, "finding: black-box-beats-white-box") == ["failure"]
    for passed in ("saturated-logits", "rejected-candidates", "small-sample"):
        assert outcome(element, f"finding: {passed}") == ["system-out"]


def test_an_unfinished_audit_is_an_error_and_no_gate_is_skipped() -> None:
    element = suite(factory.bare())
    assert outcome(element, "completeness") == ["error"]
    assert outcome(element, "gate") == ["skipped"]


def test_a_finding_brings_its_script() -> None:
    (failure,) = [f for f in suite(factory.sample()).iter("failure") if f.get("message", "").startswith("A black-box")]
    assert factory.REPLAY.rstrip() in (failure.text or "")


def test_a_gate_that_was_met_passes() -> None:
    assert outcome(suite(factory.photos()), "gate") == ["system-out"]


def test_a_code_that_comes_twice_gives_two_cases() -> None:
    finding = factory.findings()[0]
    element = suite(factory.sample(findings=(finding, finding)))
    assert outcome(element, "finding: small-sample") == ["system-out"]
    assert outcome(element, "finding: small-sample (2)") == ["system-out"]


def test_the_numbers_are_properties() -> None:
    values = {p.get("name"): p.get("value") for p in suite(factory.sample()).iter("property")}
    assert values["robust_accuracy"] == "34.8 % [30.8, 39.1], n = 500"
    assert float(values["robust_accuracy.value"]) == 0.348
    assert values["robust_accuracy.n"] == "500"
    assert values["believable"] == "false"
    assert values["missed_bound"] == "0.049"
    assert values["baseline"] == factory.comparison().verdict
    assert {p.get("value") for p in suite(factory.bare()).iter("property")} >= {"unknown, n = 0"}


@pytest.mark.parametrize(
    ("created", "timestamp"),
    [
        ("2025-11-21T05:40:12+02:00", "2025-11-21T03:40:12"),
        ("2025-11-21 03:40:12", "2025-11-21T03:40:12"),
        ("yesterday", None),
    ],
)
def test_the_timestamp_is_utc_without_offset(created: str, timestamp: str | None) -> None:
    assert suite(factory.sample(created=created)).get("timestamp") == timestamp
