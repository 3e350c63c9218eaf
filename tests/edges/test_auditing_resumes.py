"""Curves and checks of an audit tell where they are, keep their work, and go on from it."""

import json

import pytest
from tests.edges.auditing_models import Around, Counted, OnlyAtData, found

import sparring as sp
from sparring.auditing import AuditInterrupted, checks, curves, insight
from sparring.evaluation import robustness_curve

THREAT = sp.ThreatModel("linf", 0.05)


@pytest.fixture(scope="module")
def data():
    return sp.load_data("digits", n=100)


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


@pytest.fixture(autouse=True)
def short_curves(monkeypatch):
    monkeypatch.setattr(curves, "STEPS", (1.0, 2.0))
    monkeypatch.setattr(insight, "SAMPLE", 0)  # a diagnosis is made anew


def outcome(report):
    plain = json.loads(report.model_dump_json())
    return plain["evaluation"]["records"], plain["curves"], [f["evidence"] for f in plain["findings"]]


def test_every_stage_comes_to_its_end_once(net, data):
    told = []
    model = Around(net, before=OnlyAtData.apply)
    attacks = ["fgsm", "pgd:steps=10,step_size=0.01,random_start=false"]
    report = sp.audit(model, *data, sp.ThreatModel("linf", 0.15), attacks=attacks, progress=told.append)
    assert found(report, "one-step-beats-many")
    stages = list(dict.fromkeys(event.stage for event in told))
    assert stages[:3] == ["clean", *attacks]
    assert stages[3:] == [
        "curve of fgsm",
        "curve of quick attacks",
        "check: many steps against FGSM",
        "check: the whole box as budget",
        "check: more steps, round 1",
        "check: a surrogate",
        "check: Square on what gradients left",
        "check: gradients on what Square broke",
        "remedies: what still stands",
    ]
    for stage in stages:
        events = [event for event in told if event.stage == stage]
        assert [e.done for e in events] == sorted(e.done for e in events)
        assert [e.done == e.total for e in events] == [False] * (len(events) - 1) + [True], stage
        assert {e.unit for e in events} == {"images" if stage in stages[:3] else "verdicts"}


@pytest.mark.parametrize("stop_in", ["curve of quick attacks", "check: the whole box as budget"])
def test_what_was_finished_is_not_done_again(net, data, tmp_path, stop_in):
    counted = Counted(net)
    whole = sp.audit(counted, *data, THREAT, effort="quick")
    everything, counted.asked = counted.asked, 0

    def stop(event):
        if event.stage == stop_in and event.done > 0.6 * event.total:
            raise KeyboardInterrupt

    with pytest.raises(AuditInterrupted) as stopped:
        sp.audit(counted, *data, THREAT, effort="quick", out=tmp_path, progress=stop)
    assert stopped.value.report.evaluation.complete
    assert found(stopped.value.report, "interrupted")[0].undermines
    spent, counted.asked = counted.asked, 0
    again = sp.audit(counted, *data, THREAT, effort="quick", out=tmp_path)
    assert outcome(again) == outcome(whole)
    assert spent + counted.asked < 1.35 * everything
    counted.asked = 0
    third = sp.audit(counted, *data, THREAT, effort="quick", out=tmp_path)
    assert outcome(third) == outcome(whole)
    assert counted.asked < 0.3 * everything


def test_checks_keep_verdicts_but_no_pictures(net, data, tmp_path):
    sp.audit(net, *data, THREAT, effort="quick", out=tmp_path)
    for folder in ("curves", "checks"):
        assert list((tmp_path / folder).glob("*/records.jsonl"))
    assert not list((tmp_path / "checks").rglob("*.safetensors"))
    assert list(tmp_path.glob("*/adversarials/*.safetensors"))


def test_a_run_without_adversarials_is_not_taken_for_one_with(net, data, tmp_path):
    options = {"attacks": ["fgsm"], "out": tmp_path}
    forgotten = sp.evaluate(net, *data, THREAT, keep=False, **options)
    kept = sp.evaluate(net, *data, THREAT, **options)
    assert forgotten.records == kept.records == sp.evaluate(net, *data, THREAT, keep=False, **options).records
    assert len(forgotten.adversarials) == 0
    assert len(kept.adversarials) == sum(r.broken_by is not None for r in kept.records) > 0
    assert all(image.shape == data[0][0].shape for image in kept.adversarials.values())


def test_a_curve_alone_resumes(net, data, tmp_path):
    counted = Counted(net)
    first = robustness_curve(counted, *data, eps=[0.05, 0.1], out=tmp_path)
    spent, counted.asked = counted.asked, 0
    assert robustness_curve(counted, *data, eps=[0.05, 0.1], out=tmp_path) == first
    assert counted.asked < 0.35 * spent, "clean passes and drawing in are not recorded"


@pytest.mark.slow
def test_pairs_are_compared_on_a_sample_that_is_stated(net, data, monkeypatch):
    monkeypatch.setattr(checks, "PAIRED_SAMPLE", 90)
    model = Around(net, before=OnlyAtData.apply)
    seen = []
    original = checks._left
    monkeypatch.setattr(
        checks, "_left", lambda request, rows, *rest: seen.append(rows) or original(request, rows, *rest)
    )
    attacks = ["fgsm", "pgd:steps=10,step_size=0.01,random_start=false"]
    report = sp.audit(model, *data, sp.ThreatModel("linf", 0.15), attacks=attacks)
    assert "a sample of 90 of the 100 images" in found(report, "one-step-beats-many")[0].evidence
    fallen, others, *_ = seen
    assert len(fallen) + len(others) <= 90
