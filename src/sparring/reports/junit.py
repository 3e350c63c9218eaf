"""The report as JUnit XML, which every CI server reads."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from sparring.auditing.report import Finding, Report
from sparring.reports import numbers, wording
from sparring.reports.selections import sorted_findings
from sparring.reports.text import one_line, printable

_CLASS = "sparring.audit"


def render(report: Report) -> str:
    """One suite: the gate, completeness, and one case per finding.

    An open finding that undermines the robust accuracy fails, as does a gate that was not met; an audit that
    did not finish is an error. Other findings pass and keep their text as output.
    """
    cases = [_gate(report), _completeness(report), *_findings(report)]
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    totals = {name: str(value) for name, value in counts.items()} | {"time": f"{report.seconds:.3f}"}
    root = Element("testsuites", {"name": "sparring"} | totals)
    suite = SubElement(root, "testsuite", {"name": "sparring"} | totals | _timestamp(report))
    suite.append(_properties(report))
    suite.extend(cases)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _case(name: str, seconds: float = 0.0) -> Element:
    return Element("testcase", {"classname": _CLASS, "name": one_line(name), "time": f"{seconds:.3f}"})


def _verdict(case: Element, tag: str, message: str, text: str = "") -> None:
    element = SubElement(case, tag, {"message": one_line(message)})
    if tag != "skipped":
        element.attrib["type"] = f"sparring.{tag}"
        element.text = printable(text or message)


def _gate(report: Report) -> Element:
    case = _case("gate")
    if report.gate is None:
        _verdict(case, "skipped", "No pass mark was set (--fail-under).")
    elif not report.gate.passed:
        _verdict(case, "failure", report.gate.reason, f"{report.gate.reason}\n{report.headline}")
    else:
        _output(case, report.gate.reason)
    return case


def _completeness(report: Report) -> Element:
    case = _case("completeness", report.seconds)
    if not report.complete:
        _verdict(case, "error", wording.incomplete(report))
    return case


def _findings(report: Report) -> list[Element]:
    seen: dict[str, int] = {}
    cases = []
    for finding in sorted_findings(report):
        seen[finding.code] = seen.get(finding.code, 0) + 1
        again = f" ({seen[finding.code]})" if seen[finding.code] > 1 else ""
        case = _case(f"finding: {finding.code}{again}")
        if finding.undermines and not finding.resolved:
            _verdict(case, "failure", finding.title, _story(finding))
        else:
            _output(case, _story(finding))
        cases.append(case)
    return cases


def _story(finding: Finding) -> str:
    state = ", resolved" if finding.resolved else ""
    lines = [
        f"{finding.severity}{state}: {finding.title}",
        finding.evidence,
        f"What to do: {finding.remedy}",
    ]
    lines += [f"See {r.label} {r.url}".rstrip() for r in finding.references]
    lines += ["To see it again:", finding.replay.rstrip("\n")] if finding.replay else []
    return "\n".join(lines)


def _output(case: Element, text: str) -> None:
    SubElement(case, "system-out").text = printable(text)


def _properties(report: Report) -> Element:
    evaluation, attacker = report.evaluation, report.attacker
    values: dict[str, object] = {
        "headline": report.headline,
        "model": report.subject.model,
        "model_digest": report.subject.model_digest,
        "data": report.subject.data,
        "data_digest": report.subject.data_digest,
        "norm": attacker.norm,
        "eps": attacker.eps_text,
        "attacks": ", ".join(attacker.attacks),
        "effort": report.effort,
        "seed": report.seed,
        "believable": str(report.believable).lower(),
        "complete": str(report.complete).lower(),
        "caution": wording.CAUTION,
        "missed_bound": "" if evaluation.missed_bound is None else evaluation.missed_bound,
        "bracket": "" if report.bracket is None else wording.bracket(report.bracket),
        "baseline": "" if report.comparison is None else report.comparison.verdict,
        "sparring_version": report.sparring_version,
        "schema_version": report.schema_version,
    }
    for name in ("clean_accuracy", "robust_accuracy", "attack_success_rate"):
        interval = getattr(evaluation, name)
        values[name] = numbers.with_n(interval)
        ends = {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
        values |= {f"{name}.{key}": "" if end is None else end for key, end in ends.items()}
    properties = Element("properties")
    for name, value in values.items():
        SubElement(properties, "property", {"name": name, "value": one_line(str(value))})
    return properties


def _timestamp(report: Report) -> dict[str, str]:
    """In UTC without an offset, as the schemas of CI servers want it; left out where it is no date."""
    try:
        moment = datetime.fromisoformat(report.created)
    except ValueError:
        return {}
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return {"timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S")}
