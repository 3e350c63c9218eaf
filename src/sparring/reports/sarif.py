"""The report as SARIF 2.1.0 (OASIS 2020), for code scanning services."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from sparring.auditing.report import Comparison, Finding, Interval, Report
from sparring.reports import numbers, wording
from sparring.reports.selections import sorted_findings
from sparring.reports.text import is_link, one_line, printable

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
GATE = "robust-accuracy-gate"
_LEVELS = {"critical": "error", "warning": "warning", "note": "note"}
_TAGS = ["robustness", "adversarial-examples", "machine-learning"]


def render(report: Report, *, artifact: str = "sparring.toml") -> str:
    """One run: each finding is a rule and a result, and so is a gate that was not met.

    Findings have no place in any source file; `artifact` (a relative URI) is the file the results point at.
    A resolved finding keeps its level and is suppressed.
    """
    findings = sorted_findings(report)
    rules: dict[str, dict[str, Any]] = {}
    for finding in findings:
        rules.setdefault(_rule_id(finding.code), _rule(finding))
    if report.gate is not None:
        rules[GATE] = _gate_rule()
    order = {name: index for index, name in enumerate(rules)}
    results = _results(report, findings, order, artifact)
    run = {
        "tool": {"driver": _driver(report, list(rules.values()))},
        "automationDetails": {"id": f"sparring/{one_line(report.subject.model)}/"},
        "invocations": [_invocation(report)],
        "columnKind": "utf16CodeUnits",
        "results": results,
        "properties": _numbers(report),
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _driver(report: Report, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "sparring", "version": one_line(report.sparring_version) or "unknown", "rules": rules}


def _rule_id(code: str) -> str:
    return one_line(code) or "finding"


def _rule(finding: Finding) -> dict[str, Any]:
    links = [r.url for r in finding.references if is_link(r.url)]
    rule: dict[str, Any] = {
        "id": _rule_id(finding.code),
        "shortDescription": _message(finding.title),
        "fullDescription": _message(finding.title),
        "help": _message(f"What to do: {finding.remedy}"),
        "defaultConfiguration": {"level": _LEVELS[finding.severity]},
        "properties": {
            "tags": _TAGS,
            "undermines": finding.undermines,
            "references": [one_line(f"{r.label} {r.url}") for r in finding.references],
        },
    }
    return rule | ({"helpUri": links[0]} if links else {})


def _gate_rule() -> dict[str, Any]:
    return {
        "id": GATE,
        "shortDescription": _message("The robust accuracy is under the pass mark."),
        "fullDescription": _message("The audit was given a pass mark for the robust accuracy."),
        "help": _message("What to do: harden the model, or declare another attacker or pass mark."),
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": _TAGS},
    }


def _results(report: Report, findings: list[Finding], order: dict[str, int], artifact: str) -> list[dict[str, Any]]:
    results, seen = [], dict.fromkeys(order, 0)
    for finding in findings:
        name = _rule_id(finding.code)
        text = f"{finding.title.rstrip('. ')}. {finding.evidence}\nWhat to do: {finding.remedy}"
        result = _result(report, name, order[name], _LEVELS[finding.severity], text, artifact, seen[name])
        seen[name] += 1
        if finding.replay:
            result["properties"] = {"replay": printable(finding.replay)}
        if finding.resolved:
            result["suppressions"] = [
                {"kind": "external", "status": "accepted", "justification": "Resolved during the audit."}
            ]
        results.append(result)
    if report.gate is not None and not report.gate.passed:
        text = f"{report.gate.reason} {report.headline}"
        results.append(_result(report, GATE, order[GATE], "error", text, artifact, seen[GATE]))
    return results


def _result(
    report: Report, rule: str, index: int, level: str, text: str, artifact: str, ordinal: int
) -> dict[str, Any]:
    attacker = report.attacker
    identity = (rule, report.subject.model, report.subject.data, attacker.goal, attacker.norm, attacker.eps_text)
    key = json.dumps([*identity, ordinal]).encode("ascii")
    return {
        "ruleId": rule,
        "ruleIndex": index,
        "level": level,
        "message": _message(text),
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": artifact}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"sparringFinding/v1": hashlib.sha256(key).hexdigest()},
        "suppressions": [],  # all results or none carry them (3.27.23); empty means not suppressed
    }


def _message(text: str) -> dict[str, str]:
    """Plain text with the signs that SARIF reads as placeholders (3.11.5) and links (3.11.6) disarmed."""
    safe = printable(text).strip().replace("{", "{{").replace("}", "}}").replace("](", "] (")
    return {"text": safe or "-"}


def _invocation(report: Report) -> dict[str, Any]:
    invocation: dict[str, Any] = {"executionSuccessful": report.complete}
    if not report.complete:
        missing = _message(wording.incomplete(report))
        invocation["toolExecutionNotifications"] = [{"level": "error", "message": missing}]
    try:
        moment = datetime.fromisoformat(report.created)
    except ValueError:
        return invocation
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return invocation | {"endTimeUtc": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _compared(comparison: Comparison) -> dict[str, Any]:
    counts = {"newlyBroken": len(comparison.newly_broken), "newlyRobust": len(comparison.newly_robust)}
    return counts | {"verdict": one_line(comparison.verdict), "pValue": comparison.p_value}


def _numbers(report: Report) -> dict[str, Any]:
    def plain(interval: Interval) -> dict[str, Any]:
        return interval.model_dump() | {"text": numbers.with_n(interval)}

    evaluation, attacker = report.evaluation, report.attacker
    return {
        "headline": printable(report.headline),
        "believable": report.believable,
        "complete": report.complete,
        "cleanAccuracy": plain(evaluation.clean_accuracy),
        "robustAccuracy": plain(evaluation.robust_accuracy),
        "attackSuccessRate": plain(evaluation.attack_success_rate),
        "missedBound": evaluation.missed_bound,
        "baseline": None if report.comparison is None else _compared(report.comparison),
        "caution": wording.CAUTION,
        "norm": one_line(attacker.norm),
        "eps": attacker.eps,
        "model": one_line(report.subject.model),
        "modelDigest": one_line(report.subject.model_digest),
        "data": one_line(report.subject.data),
        "dataDigest": one_line(report.subject.data_digest),
        "seed": report.seed,
    }
