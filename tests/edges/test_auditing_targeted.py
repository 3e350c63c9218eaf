"""A targeted audit: the same curves and checks as any other, about the images there is something to attack about."""

import pytest
import torch
from tests.edges.auditing_models import EPS, Around, Misled, audited, found

import sparring as sp


@pytest.fixture(scope="module")
def data():
    return sp.load_data("digits", n=100)


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


@pytest.fixture(scope="module")
def report(net, data):
    return audited(net, data, targets=torch.full_like(data[1], 3))


def test_broken_means_turned_into_the_target(report):
    broken = [r for r in report.evaluation.records if r.broken_by]
    assert broken
    assert all(r.adversarial_prediction == 3 and r.label != 3 for r in broken)
    assert report.evaluation.targeted


def test_the_headline_states_the_share_of_the_attacked_images(report, data):
    rate = report.evaluation.attack_success_rate
    assert f"reaches the chosen class on at least {100 * rate.value:.1f} % of the {rate.n} images attacked" in (
        report.headline
    )
    right = [r for r in report.evaluation.records if r.prediction == r.label and r.label != 3]
    assert rate.n == len(right) < len(data[1])
    assert "leaves it" not in report.headline
    assert found(report, "evasion")[0].evidence.endswith(f"were turned into the chosen class at linf eps {EPS}")


def test_a_headline_without_success(net, data):
    report = audited(net, data, eps=1e-4, targets=torch.full_like(data[1], 3))
    assert "reaches the chosen class on none of the" in report.headline
    nobody = audited(net, data, targets=data[1].clone())
    assert "found no image to turn into the chosen class" in nobody.headline
    assert [curve.attack for curve in nobody.curves] == ["all attacks, all images but those labelled as their target"]


def test_a_random_model_is_promised_nothing(net, data):
    noisy = Around(net, before=lambda x: x + 0.05 * torch.randn_like(x))
    report = audited(noisy, data, targets=torch.full_like(data[1], 3))
    assert "at least" not in report.headline
    assert "in this draw of its random answers" in report.headline


def test_the_curves_are_about_the_images_that_can_be_attacked(report, data):
    others = int((data[1] != 3).sum())
    fgsm, pgd, all_ = report.curves
    for curve in (fgsm, pgd):
        assert {point.accuracy.n for point in curve.points} == {others}
    right = sum(r.prediction == r.label and r.label != 3 for r in report.evaluation.records)
    assert fgsm.points[0].accuracy.value == pgd.points[0].accuracy.value == right / others
    assert pgd.points[-1].accuracy.value < 0.1
    (at_budget,) = all_.points
    standing = right - sum(r.broken_by is not None for r in report.evaluation.records)
    assert (at_budget.accuracy.value, at_budget.accuracy.n) == (standing / others, others)
    assert report.cost.points[-1].broken == pytest.approx(report.evaluation.attack_success_rate.value)


def test_an_honest_model_raises_nothing_grave(report):
    assert {f.code for f in report.findings} == {"evasion"}


def test_a_weak_targeted_attack_is_contradicted_by_the_curve(net, data):
    report = audited(net, data, targets=torch.full_like(data[1], 3), attacks=["pgd:step_size=0,random_start=false"])
    assert found(report, "stronger-attack-found")


def test_a_blind_targeted_attack_survives_the_whole_box(net, data):
    few = data[0][:30], data[1][:30]
    report = audited(lambda x: net(Misled.apply(x)), few, targets=(few[1] + 1) % 10, attacks=["pgd:steps=5"])
    assert found(report, "unbounded-survivors")
    assert not report.believable


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l1", 2.0), ("l0", 2)])
def test_other_norms(net, data, norm, eps):
    report = audited(net, (data[0][:60], data[1][:60]), eps, norm=norm, targets=(data[1][:60] + 1) % 10)
    assert {f.code for f in report.findings} <= {"evasion", "small-sample"}
    assert len(report.curves) == 3
