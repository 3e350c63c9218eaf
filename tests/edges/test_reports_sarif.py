"""SARIF 2.1.0: the shape that code scanning services require."""

from __future__ import annotations

import json
import re

import pytest
from tests.edges import reports_factory as factory

from sparring.reports import sarif

MAKERS = (factory.sample, factory.bare, factory.hostile, factory.photos)


def run(report, **options) -> dict:
    log = json.loads(sarif.render(report, **options))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (only,) = log["runs"]
    return only


def messages(node):
    if isinstance(node, dict):
        if set(node) == {"text"}:
            yield node["text"]
        for child in node.values():
            yield from messages(child)
    if isinstance(node, list):
        for child in node:
            yield from messages(child)


@pytest.mark.parametrize("make", MAKERS)
def test_what_the_schema_requires_is_there(make) -> None:
    document = run(make())
    driver = document["tool"]["driver"]
    assert driver["name"] == "sparring"
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    for result in document["results"]:
        assert result["message"]["text"]
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "sparring.toml"
        assert place["region"]["startLine"] == 1
        assert result["partialFingerprints"]
        assert isinstance(result["suppressions"], list)  # all results or none
    for rule in driver["rules"]:
        assert re.match(r"https?://", rule.get("helpUri", "https://"))
        assert rule["defaultConfiguration"]["level"] in {"note", "warning", "error"}
    for text in messages(document["results"]):
        assert "](" not in text  # would be a link
        assert not re.search(r"(?<!\{)\{\d+\}(?!\})", text)  # would be a placeholder


def test_findings_and_a_missed_gate_are_results() -> None:
    results = {r["ruleId"]: r for r in run(factory.sample())["results"]}
    assert {name: r["level"] for name, r in results.items()} == {
        "black-box-beats-white-box": "error",
        "saturated-logits": "error",
        "rejected-candidates": "warning",
        "small-sample": "note",
        sarif.GATE: "error",
    }
    assert results["saturated-logits"]["suppressions"][0]["kind"] == "external"
    assert results["black-box-beats-white-box"]["suppressions"] == []
    assert "34.8 %" in results[sarif.GATE]["message"]["text"]


def test_a_gate_that_was_met_is_no_result() -> None:
    assert run(factory.photos())["results"] == []


def test_success_means_complete() -> None:
    (invocation,) = run(factory.sample())["invocations"]
    assert invocation == {"executionSuccessful": True, "endTimeUtc": "2025-11-21T03:40:12Z"}
    (invocation,) = run(factory.bare(created="some day"))["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["toolExecutionNotifications"][0]["level"] == "error"
    assert "endTimeUtc" not in invocation


def test_fingerprints_outlive_new_numbers_and_tell_results_apart() -> None:
    def prints(report) -> list[str]:
        return [r["partialFingerprints"]["sparringFinding/v1"] for r in run(report)["results"]]

    finding = factory.findings()[0]
    report = factory.sample(findings=(*factory.findings(), finding))
    assert len(set(prints(report))) == len(prints(report)) == 6
    later = factory.sample(seed=7, seconds=99.0, created="2026-01-01T00:00:00Z")
    assert prints(later) == prints(factory.sample())


def test_the_artifact_can_be_named() -> None:
    place = run(factory.sample(), artifact="models/a.toml")["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "models/a.toml"


def test_the_numbers_are_in_the_property_bag() -> None:
    bag = run(factory.sample())["properties"]
    assert bag["robustAccuracy"]["value"] == 0.348
    assert bag["robustAccuracy"]["text"] == "34.8 % [30.8, 39.1], n = 500"
    assert bag["believable"] is False


def test_a_result_brings_its_script_and_the_run_the_baseline() -> None:
    document = run(factory.sample())
    results = {r["ruleId"]: r for r in document["results"]}
    assert results["black-box-beats-white-box"]["properties"] == {"replay": factory.REPLAY}
    assert "properties" not in results["small-sample"]
    assert document["properties"]["missedBound"] == 0.049
    assert document["properties"]["baseline"]["newlyBroken"] == 25
    assert run(factory.bare())["properties"]["baseline"] is None
