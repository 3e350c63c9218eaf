"""The audit: every finding has a model that raises it, and an honest model that raises none of the grave ones."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tests.edges.auditing_models import Around, Misled, OnlyAtData, audited, found, replayed

import sparring as sp
from sparring.auditing import FINDINGS, AuditInterrupted, checks, load_report
from sparring.black_box import BlackBox


@pytest.fixture(scope="module")
def data():
    return sp.load_data("digits", n=100)


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


def test_honest_model_raises_only_what_is_true(net, data):
    report = audited(net, data)
    assert {f.code for f in report.findings} == {"evasion"}
    assert "at most" in report.headline
    assert report.believable
    assert report.complete
    assert report.evaluation.robust_accuracy.value < 0.4
    assert load_report(report.model_dump_json()) == report


def test_honest_model_at_a_tiny_budget(net, data):
    report = audited(net, data, eps=0.01)
    assert not [f for f in report.findings if f.undermines]


def test_probabilities_are_turned_back_into_logits(net, data):
    plain = audited(net, data)
    report = audited(Around(net, after=lambda z: z.softmax(1)), data)
    (finding,) = found(report, "probability-outputs")
    assert finding.undermines
    assert abs(report.evaluation.robust_accuracy.value - plain.evaluation.robust_accuracy.value) <= 0.02


def test_saturated_probabilities_are_gone_around(net, data):
    few = (data[0][:30], data[1][:30])
    report = audited(Around(net, after=lambda z: (1000 * z).softmax(1)), few)
    assert found(report, "probability-outputs")[0].resolved
    assert found(report, "blocked-gradient")[0].resolved
    truth = audited(net, few).evaluation.robust_accuracy
    assert report.evaluation.robust_accuracy.value <= truth.value + 1.5 / 30


def test_train_mode_is_noticed_and_put_back(data):
    net = sp.load_model("digits-cnn").train()
    report = audited(net, data)
    assert found(report, "train-mode")[0].resolved
    assert net.training


def test_random_outputs_are_attacked_in_expectation_and_judged_by_fresh_draws(net, data):
    report = audited(Around(net, before=lambda x: x + 0.05 * torch.randn_like(x)), data)
    (finding,) = found(report, "random-outputs")
    assert finding.resolved
    assert "50 fresh draws" in finding.evidence
    assert "averaged over fresh draws" in report.headline
    plain = audited(net, data)
    assert abs(report.evaluation.robust_accuracy.value - plain.evaluation.robust_accuracy.value) < 0.06


def test_batch_dependence(net, data):
    report = audited(Around(net, before=lambda x: x - 0.5 * x.mean(0, keepdim=True)), data)
    assert found(report, "batch-dependence")


def test_no_gradient_falls_back_to_attacks_that_need_none(net, data):
    report = audited(lambda x: net(x.detach()), (data[0][:40], data[1][:40]))
    assert found(report, "no-gradient")
    used = [sp.attacks.parse(stage.attack) for stage in report.evaluation.stages]
    assert used
    assert "gradients" not in {attack.access for attack in used}
    assert report.attacker.knowledge == "black box: logits only"
    assert not report.believable


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_a_declared_black_box_is_no_mistake(net, data, access):
    box = BlackBox(net, access)
    report = audited(box, (data[0][:40], data[1][:40]), attacks=["random_noise:draws=5"])
    assert {f.code for f in report.findings} <= {"evasion", "small-sample"}
    assert report.attacker.knowledge == "black box: labels only"


def test_rounded_input_has_zero_gradient(net, data):
    report = audited(Around(net, before=lambda x: (x * 16).round() / 16), data)
    assert found(report, "zero-gradient")[0].resolved
    (finding,) = found(report, "blocked-gradient")
    assert "before net" in finding.evidence
    assert report.evaluation.robust_accuracy.value < 0.35


@pytest.mark.slow
def test_rounding_in_a_function_is_left_to_searches(net, data):
    report = audited(lambda x: net((x * 16).round() / 16), (data[0][:30], data[1][:30]))
    assert not found(report, "zero-gradient")[0].resolved
    assert not report.believable
    (more,) = found(report, "search-found-more")
    assert "square:queries=100 broke" in more.evidence
    assert report.evaluation.robust_accuracy.value < 0.5


def test_an_attacker_who_may_change_nothing_proves_nothing(net, data):
    report = audited(net, data, eps=0.0, attacks=["fgsm"], fail_under=0.5)
    assert found(report, "nothing-may-change")
    assert not found(report, "evasion")
    assert not report.believable
    assert report.gate is not None
    assert not report.gate.passed
    assert not found(audited(net, data, eps=0.01, attacks=["fgsm"]), "nothing-may-change")


def test_scaled_logits_do_not_fool_the_margin(net, data):
    plain = audited(net, data)
    report = audited(Around(net, after=lambda z: 1000 * z), data)
    (finding,) = found(report, "vanishing-cross-entropy")
    assert finding.resolved
    assert report.evaluation.robust_accuracy.value <= plain.evaluation.robust_accuracy.value + 0.05


@pytest.mark.slow
def test_scaled_logits_with_cross_entropy_alone_is_not_believed(net, data):
    report = audited(Around(net, after=lambda z: 1000 * z), data, attacks=["pgd:steps=10"])
    assert not found(report, "vanishing-cross-entropy")[0].resolved
    assert not report.believable


def test_misleading_gradient_is_caught_by_noise_and_by_the_unbounded_attack(net, data):
    report = audited(
        lambda x: net(Misled.apply(x)),  # a function shows no parts to go around
        data,
        eps=0.3,
        attacks=["pgd:steps=10,step_size=0.02,random_start=false", "random_noise:draws=50"],
    )
    assert found(report, "noise-beats-gradient")
    assert found(report, "unbounded-survivors")
    assert not report.believable


def test_gradient_at_the_data_only_is_caught_by_one_step(net, data):
    attacks = ["fgsm", "pgd:steps=10,step_size=0.01,random_start=false"]
    report = audited(Around(net, before=OnlyAtData.apply), data, attacks=attacks)
    assert found(report, "one-step-beats-many")


def test_gradient_that_lies_is_caught_before_the_first_attack(net, data):
    few, lie = (data[0][:20], data[1][:20]), lambda x: x + 0.004 * torch.sin(2 * torch.pi * 200 * x)
    report = audited(lambda x: net(lie(x)), few, targets=torch.full_like(few[1], 3), attacks=["pgd:steps=5"])
    assert not found(report, "gradient-misleads")[0].resolved
    assert not report.believable


def test_gradient_that_lies_is_gone_around_where_the_model_has_parts(net, data):
    report = audited(Around(net, before=Misled.apply), data)
    assert found(report, "gradient-misleads")[0].resolved
    assert found(report, "blocked-gradient")[0].resolved
    assert report.believable
    assert report.evaluation.robust_accuracy.value < 0.2


def test_weak_attacks_are_contradicted_by_the_curve(net, data):
    for weak in ("random_noise", "pgd:step_size=0,random_start=false"):
        report = audited(net, data, attacks=[weak], fail_under=0.3)
        assert found(report, "stronger-attack-found")
        assert not report.gate.passed


BLIND = "pgd:step_size=0,random_start=false"


def test_square_breaks_what_a_blind_attack_left_of_a_sample(net, data):
    (finding,) = found(audited(net, data, attacks=[BLIND]), "gradient-free-wins")
    assert "square:queries=500 broke" in finding.evidence
    assert f"of {checks.GRADIENT_FREE_SAMPLE} tried" in finding.evidence
    assert finding.undermines


def test_square_gets_all_that_is_left_where_the_gradient_looks_masked(net, data):
    few, weak = (data[0][:50], data[1][:50]), "pgd:steps=5,step_size=0.02,random_start=false"
    report = audited(lambda x: net(Misled.apply(x)), few, attacks=[weak])
    standing = sum(r.broken_by != weak and r.prediction == r.label for r in report.evaluation.records)
    assert f"of {standing} tried" in found(report, "gradient-free-wins")[0].evidence


def test_square_that_was_part_of_the_evaluation_is_not_run_again(net, data):
    told = []
    report = audited(net, data, attacks=[BLIND, "square:queries=300"], progress=told.append)
    assert "square:queries=300 broke" in found(report, "gradient-free-wins")[0].evidence
    assert not [event for event in told if event.stage == "check: Square on what gradients left"]


def test_square_before_gradients_that_are_as_good_is_no_finding(net, data):
    report = audited(net, data, attacks=["square:queries=300", "pgd:steps=20,loss=margin"])
    assert not found(report, "gradient-free-wins")
    assert not found(audited(net, data, eps=0.02), "gradient-free-wins")


def test_narrow_range_and_normalisation(net, data):
    images, labels = data
    report = audited(Around(net, before=lambda x: x / 255), (images, labels))
    assert "inputs times 255" in found(report, "wrong-normalisation")[0].evidence
    report = audited(Around(net, before=lambda x: 20 * x), (images / 20, labels), eps=0.01)
    assert found(report, "narrow-input-range")


def test_single_class_and_chance(net, data):
    images, labels = data
    only = labels == 3
    report = audited(net, (images[only], labels[only]))
    assert found(report, "single-class-data")
    assert found(report, "small-sample")
    report = audited(net, (images, (labels + 1) % 10))
    assert found(report, "at-chance")


def test_nan_answers_are_told(net, data):
    def burst(z):
        return torch.where(z.amax(1, keepdim=True) < 2.5, torch.full_like(z, torch.nan), z)

    images, labels = data
    sure = net(images).amax(1) > 6
    report = audited(Around(net, after=burst), (images[sure], labels[sure]))
    assert found(report, "unusable-numbers")


def test_two_classes_replace_dlr(net, data):
    images, labels = data
    few = labels < 2
    report = audited(
        Around(net, after=lambda z: z[:, :2]), (images[few], labels[few]), attacks=["pgd:steps=5,loss=dlr"]
    )
    assert found(report, "loss-replaced")


class Liar(sp.attacks.Attack):
    """Returns images far outside the budget."""

    def run(self, problem):
        return 1 - problem.images


def test_rejected_candidates_are_told(net, data):
    report = audited(net, data, attacks=[Liar()])
    assert found(report, "candidates-rejected")
    assert report.evaluation.stages[0].broke == 0
    assert report.evaluation.stages[0].rejected == report.evaluation.stages[0].tried


def test_interrupted_audit_is_a_valid_report_and_resumes(net, data, tmp_path):
    calls = 0

    def stop_soon(event):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(AuditInterrupted) as stop:
        audited(net, data, out=tmp_path, progress=stop_soon, fail_under=0.0)
    report = stop.value.report
    assert not report.complete
    assert found(report, "interrupted")[0].undermines
    assert not report.believable
    assert not report.gate.passed
    for suffix in ("json", "html", "xml", "sarif"):
        assert report.save(tmp_path / f"report.{suffix}").stat().st_size > 500
    assert load_report((tmp_path / "report.json").read_bytes()) == report
    again, fresh = audited(net, data, out=tmp_path), audited(net, data)
    assert again.evaluation.records == fresh.evaluation.records


def test_interrupted_in_the_curves_keeps_the_evaluation(net, data):
    def stop_in_curve(event):
        if event.stage.startswith("curve"):
            raise KeyboardInterrupt

    with pytest.raises(AuditInterrupted) as stop:
        audited(net, data, progress=stop_in_curve, fail_under=0.0)
    report = stop.value.report
    assert report.evaluation.complete
    assert not report.complete
    (finding,) = found(report, "interrupted")
    assert finding.undermines, "the checks that follow may call for more attacks"
    assert not report.believable
    assert not report.gate.passed


@pytest.mark.parametrize("place", ["first_broken", "compose"])
def test_interrupted_at_the_end_keeps_everything_measured(net, data, monkeypatch, place):
    module = sys.modules["sparring.auditing.audit"]
    whole, calls = getattr(module, place), []

    def stop_once(*args):
        calls.append(place)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(module, place, stop_once)
    with pytest.raises(AuditInterrupted) as stop:
        audited(net, data)
    report = stop.value.report
    assert report.evaluation.complete
    assert report.believable
    assert report.complete is (place == "compose")


@pytest.mark.parametrize(("mark", "passed"), [(0.0, True), (0.99, False)])
def test_gate_looks_at_the_lower_end(net, data, mark, passed):
    report = audited(net, data, eps=0.02, fail_under=mark)
    assert report.gate.passed is passed
    tight = report.evaluation.robust_accuracy
    between = (tight.low + tight.value) / 2
    assert not audited(net, data, eps=0.02, fail_under=between).gate.passed


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("l1", 4.0), ("l0", 4)])
def test_other_norms(net, data, norm, eps):
    report = sp.audit(net, *data, sp.ThreatModel(norm, eps), effort="quick")
    assert report.evaluation.attack_success_rate.value > 0.3
    assert report.believable


def test_a_threat_beyond_the_balls_has_a_report_without_curves(net, data):
    images, labels = data[0][:30], data[1][:30]
    report = sp.audit(net, images, labels, sp.perturbations.Patch(0.1), attacks=["patch"])
    assert "has a patch budget of 0.1" in report.headline
    assert report.complete
    assert not report.curves
    (script,) = [f.replay for f in report.findings if f.code == "evasion"]
    assert "threat = sp.perturbations.Patch(area=0.1)" in script
    assert "broken_by='patch'" in replayed(script, model=net, images=images, labels=labels)


def test_report_is_the_same_twice_but_for_time(net, data):
    def timeless(report):
        plain = json.loads(report.model_dump_json())
        for key in ("created", "seconds", "attacker"):
            del plain[key]
        for stage in plain["evaluation"]["stages"]:
            del stage["seconds"]
        return plain

    assert timeless(audited(net, data)) == timeless(audited(net, data))


def test_every_finding_is_raised_in_one_of_these_files():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_auditing*.py"))
    assert not [code for code in FINDINGS if f'"{code}"' not in text]


def test_infinite_logits_are_told_and_pictures_are_drawn_all_the_same(net, data):
    def all_or_nothing(z):
        return torch.where(z == z.amax(1, keepdim=True), z + torch.inf, z)

    images, labels = data
    right = net(images).argmax(1) == labels
    report = audited(Around(net, after=all_or_nothing), (images[right][:40], labels[right][:40]))
    (finding,) = found(report, "unusable-numbers")
    assert "returns infinite logits for 40 clean images" in finding.evidence
    assert report.pictures
    assert all(picture.before_confidence == 1 for picture in report.pictures)


def test_targets_that_are_the_labels_pass_no_gate(net, data):
    images, labels = data
    report = audited(net, (images, labels), targets=labels.clone(), attacks=["fgsm"], fail_under=0.5)
    assert found(report, "nothing-to-attack")
    assert not report.gate.passed
    mostly = labels.clone()
    mostly[::5] = (labels[::5] + 1) % 10
    report = audited(net, (images, labels), targets=mostly, eps=0.3, attacks=["pgd"], fail_under=0.5)
    assert not found(report, "nothing-to-attack")
    assert report.evaluation.robust_accuracy.low > 0.5, "most images have no target to reach"
    assert not report.gate.passed, "of those that have one hardly any stands"
