"""The JSON report validates back; the suffix chooses the renderer; no renderer stumbles over odd reports."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.edges import reports_factory as factory

import sparring.reports
from sparring.auditing import report as rp
from sparring.errors import InputError
from sparring.reports import as_json, html, junit, sarif, terminal

ROOM = Path(sparring.reports.__file__).parent

texts = st.text(max_size=40) | st.just(factory.HOSTILE)
shares = st.builds(lambda n, k: factory.share(min(n, k), n), st.integers(0, 50), st.integers(0, 50))
counts = st.integers(0, 10**7)
sizes = st.floats(0, 1e6)
points = st.lists(st.builds(rp.CurvePoint, eps=st.floats(0, 300), accuracy=shares), max_size=6)
curves = st.builds(rp.Curve, attack=texts, norm=st.sampled_from(["linf", "l2"]) | texts, points=points.map(tuple))
costs = st.builds(
    rp.CostCurve,
    unit=texts,
    points=st.lists(st.builds(rp.CostPoint, cost=sizes, broken=st.floats(0, 1)), max_size=8).map(tuple),
)
found = st.builds(
    rp.Finding,
    code=texts,
    title=texts,
    severity=st.sampled_from(["critical", "warning", "note"]),
    evidence=texts,
    remedy=texts,
    undermines=st.booleans(),
    resolved=st.booleans(),
    references=st.lists(st.builds(rp.Reference, label=texts, url=texts), max_size=2).map(tuple),
)
stages = st.builds(
    rp.Stage,
    attack=texts,
    tried=counts,
    broke=counts,
    robust_after=shares,
    forwards=counts,
    backwards=counts,
    seconds=sizes,
    notes=st.lists(texts, max_size=2).map(tuple),
)
rows = st.builds(rp.ClassRow, label=counts, name=texts, clean=shares, robust=shares, falls_to=st.none() | texts)
gates = st.none() | st.builds(rp.Gate, fail_under=st.floats(0, 1), passed=st.booleans(), reason=texts)


@st.composite
def reports(draw: st.DrawFn) -> rp.Report:
    lists = {
        "curves": st.lists(curves, max_size=3),
        "classes": st.lists(rows, max_size=25),
        "findings": st.lists(found, max_size=4),
    }
    evaluation = rp.EvaluationSection(
        clean_accuracy=draw(shares),
        robust_accuracy=draw(shares),
        attack_success_rate=draw(shares),
        missed_bound=draw(st.none() | st.floats(0, 1)),
        complete=draw(st.booleans()),
        stages=tuple(draw(st.lists(stages, max_size=3))),
        records=factory.records(*draw(st.tuples(*3 * [st.integers(0, 2)]))),
    )
    return factory.sample(
        headline=draw(texts),
        created=draw(texts | st.datetimes().map(str)),
        complete=evaluation.complete,
        seconds=draw(sizes),
        evaluation=evaluation,
        cost=draw(st.none() | costs),
        gate=draw(gates),
        pictures=(),
        **{name: tuple(draw(strategy)) for name, strategy in lists.items()},
    )


@given(report=reports())
@settings(max_examples=40, deadline=None)
def test_json_validates_back_to_the_same_report(report: rp.Report) -> None:
    assert rp.load_report(as_json.render(report)) == report


@given(report=reports())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_renderer_takes_every_report(report: rp.Report) -> None:
    assert html.render(report).endswith("</html>")
    ElementTree.fromstring(junit.render(report))
    json.loads(sarif.render(report))
    terminal.render(report, Console(file=io.StringIO(), width=80))


def test_every_record_is_one_line() -> None:
    report = factory.sample()
    lines = as_json.render(report).splitlines()
    rows = [line for line in lines if line.startswith('      {"index":')]
    assert len(rows) == len(report.evaluation.records)
    assert json.loads(rows[-1].rstrip(",")) == dataclasses.asdict(report.evaluation.records[-1])
    large = factory.sample(evaluation=report.evaluation.model_copy(update={"records": factory.records(0, 20_000, 0)}))
    assert len(as_json.render(large)) < 210 * 20_000


def test_the_empty_list_is_only_replaced_where_the_records_are() -> None:
    report = factory.sample(headline='"records": []', effort='\\"records": []')
    assert rp.load_report(as_json.render(report)) == report


def test_half_a_surrogate_pair_does_not_lose_the_report() -> None:
    report = factory.sample(headline="from \udcff a file name")
    again = rp.load_report(as_json.render(report))
    assert again.headline == "from ? a file name"
    assert again.model_copy(update={"headline": report.headline}) == report


@pytest.mark.parametrize("make", [factory.sample, factory.bare, factory.hostile])
@pytest.mark.parametrize("suffix", [".json", ".html", ".xml", ".sarif"])
def test_saving_chooses_the_renderer_by_suffix(make, suffix: str, tmp_path: Path) -> None:
    path = make().save(tmp_path / f"report{suffix.upper()}")
    text = path.read_text(encoding="utf-8")
    start = {".json": '{\n  "schema_version"', ".html": "<!doctype html>", ".xml": "<?xml", ".sarif": "{"}
    assert text.startswith(start[suffix])


def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.json, \.html, \.xml, \.sarif"):
        factory.bare().save(tmp_path / "report.pdf")


def test_the_room_reads_plain_results_only() -> None:
    """Nothing of sparring but the report itself and how a budget is written, and nothing that computes."""
    allowed = (
        "sparring.auditing.report",
        "sparring.reports",
        "sparring.budget",
        "sparring.certification.certificate",
        "sparring.defenses.comparison",
        "sparring.diagnosis.result",
        "sparring.estimate",
    )
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"torch", "numpy", "scipy"}, f"{path.name} imports {name}"
                assert not name.startswith("sparring") or name.startswith(allowed), f"{path.name} imports {name}"
