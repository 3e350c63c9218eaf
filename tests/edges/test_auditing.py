"""The audit: every finding has a model that raises it, and an honest model that raises none of the grave ones."""

import json

import pytest
import torch
from torch import nn

import sparring as sp
from sparring.auditing import FINDINGS, AuditInterrupted, load_report

EPS = 0.15


@pytest.fixture(scope="module")
def data():
    return sp.load_data("digits", n=150)


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


class Around(nn.Module):
    """A model with something in front of or behind it."""

    def __init__(self, net, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


class Misled(torch.autograd.Function):
    """The identity, with a gradient that points the wrong way."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


class OnlyAtData(torch.autograd.Function):
    """The identity, with a gradient only where pixels sit on the data's own grey levels."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        on_grid = ((x * 16 - (x * 16).round()).abs() < 1e-6).flatten(1).all(1)
        return grad * on_grid.view(-1, 1, 1, 1)


def _audit(model, data, eps=EPS, **options):
    options.setdefault("effort", "quick")
    return sp.audit(model, *data, sp.ThreatModel("linf", eps), **options)


def _found(report, code):
    return [f for f in report.findings if f.code == code]


def test_honest_model_raises_only_what_is_true(net, data):
    report = _audit(net, data)
    assert {f.code for f in report.findings} == {"evasion"}
    assert report.believable
    assert report.complete
    assert report.evaluation.robust_accuracy.value < 0.4
    assert load_report(report.model_dump_json()) == report


def test_honest_model_at_a_tiny_budget(net, data):
    report = _audit(net, data, eps=0.01)
    assert not [f for f in report.findings if f.undermines]


def test_probabilities_are_turned_back_into_logits(net, data):
    plain = _audit(net, data)
    report = _audit(Around(net, after=lambda z: z.softmax(1)), data)
    (finding,) = _found(report, "probability-outputs")
    assert finding.undermines
    assert abs(report.evaluation.robust_accuracy.value - plain.evaluation.robust_accuracy.value) <= 0.02


def test_saturated_probabilities_stay_unresolved(net, data):
    report = _audit(Around(net, after=lambda z: (1000 * z).softmax(1)), data)
    assert not _found(report, "probability-outputs")[0].resolved
    assert not report.believable


def test_train_mode_is_noticed_and_put_back(data):
    net = sp.load_model("digits-cnn").train()
    report = _audit(net, data)
    assert _found(report, "train-mode")[0].resolved
    assert net.training


def test_random_outputs(net, data):
    report = _audit(Around(net, before=lambda x: x + 0.05 * torch.randn_like(x)), data)
    assert _found(report, "random-outputs")
    assert not report.believable


def test_batch_dependence(net, data):
    report = _audit(Around(net, before=lambda x: x - 0.5 * x.mean(0, keepdim=True)), data)
    assert _found(report, "batch-dependence")


def test_no_gradient_falls_back_to_noise(net, data):
    report = _audit(Around(net, before=lambda x: x.detach()), data)
    assert _found(report, "no-gradient")
    assert all("random_noise" in stage.attack for stage in report.evaluation.stages)
    assert not report.believable


def test_rounded_input_has_zero_gradient(net, data):
    report = _audit(Around(net, before=lambda x: (x * 16).round() / 16), data)
    assert _found(report, "zero-gradient")
    assert not report.believable


def test_scaled_logits_do_not_fool_the_margin(net, data):
    plain = _audit(net, data)
    report = _audit(Around(net, after=lambda z: 1000 * z), data)
    (finding,) = _found(report, "vanishing-cross-entropy")
    assert finding.resolved
    assert report.evaluation.robust_accuracy.value <= plain.evaluation.robust_accuracy.value + 0.05


def test_scaled_logits_with_cross_entropy_alone_is_not_believed(net, data):
    report = _audit(Around(net, after=lambda z: 1000 * z), data, attacks=["pgd:steps=10"])
    assert not _found(report, "vanishing-cross-entropy")[0].resolved
    assert not report.believable


def test_misleading_gradient_is_caught_by_noise_and_by_the_unbounded_attack(net, data):
    report = _audit(
        Around(net, before=Misled.apply),
        data,
        eps=0.3,
        attacks=["pgd:steps=10,step_size=0.02,random_start=false", "random_noise:draws=50"],
    )
    assert _found(report, "noise-beats-gradient")
    assert _found(report, "unbounded-survivors")
    assert not report.believable


def test_gradient_at_the_data_only_is_caught_by_one_step(net, data):
    attacks = ["fgsm", "pgd:steps=10,step_size=0.01,random_start=false"]
    report = _audit(Around(net, before=OnlyAtData.apply), data, attacks=attacks)
    assert _found(report, "one-step-beats-many")


def test_gradient_that_lies_is_caught_before_the_first_attack(net, data):
    for lie in (Misled.apply, lambda x: x + 0.004 * torch.sin(2 * torch.pi * 200 * x)):
        report = _audit(Around(net, before=lie), data, targets=torch.full_like(data[1], 3))
        assert _found(report, "gradient-misleads")
        assert _found(report, "targeted-unchecked")
        assert not report.believable


def test_weak_attacks_are_contradicted_by_the_curve(net, data):
    for weak in ("random_noise", "pgd:step_size=0,random_start=false"):
        report = _audit(net, data, attacks=[weak], fail_under=0.3)
        assert _found(report, "stronger-attack-found")
        assert not report.gate.passed


def test_narrow_range_and_normalisation(net, data):
    images, labels = data
    report = _audit(Around(net, before=lambda x: x / 255), (images, labels))
    assert "inputs times 255" in _found(report, "wrong-normalisation")[0].evidence
    report = _audit(Around(net, before=lambda x: 20 * x), (images / 20, labels), eps=0.01)
    assert _found(report, "narrow-input-range")


def test_single_class_and_chance(net, data):
    images, labels = data
    only = labels == 3
    report = _audit(net, (images[only], labels[only]))
    assert _found(report, "single-class-data")
    assert _found(report, "small-sample")
    report = _audit(net, (images, (labels + 1) % 10))
    assert _found(report, "at-chance")


def test_nan_answers_are_told(net, data):
    def burst(z):
        return torch.where(z.amax(1, keepdim=True) < 2.5, torch.full_like(z, torch.nan), z)

    images, labels = data
    sure = net(images).amax(1) > 6
    report = _audit(Around(net, after=burst), (images[sure], labels[sure]))
    assert _found(report, "unusable-numbers")


def test_two_classes_replace_dlr(net, data):
    images, labels = data
    few = labels < 2
    report = _audit(Around(net, after=lambda z: z[:, :2]), (images[few], labels[few]), attacks=["pgd:steps=5,loss=dlr"])
    assert _found(report, "loss-replaced")


class Liar(sp.attacks.Attack):
    """Returns images far outside the budget."""

    def run(self, problem):
        return 1 - problem.images


def test_rejected_candidates_are_told(net, data):
    report = _audit(net, data, attacks=[Liar()])
    assert _found(report, "candidates-rejected")
    assert report.evaluation.robust_accuracy.value == report.evaluation.clean_accuracy.value


def test_interrupted_audit_is_a_valid_report_and_resumes(net, data, tmp_path):
    calls = 0

    def stop_soon(event):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(AuditInterrupted) as stop:
        _audit(net, data, out=tmp_path, progress=stop_soon, fail_under=0.0)
    report = stop.value.report
    assert not report.complete
    assert not report.believable
    assert not report.gate.passed
    for suffix in ("json", "html", "xml", "sarif"):
        assert report.save(tmp_path / f"report.{suffix}").stat().st_size > 500
    assert load_report((tmp_path / "report.json").read_bytes()) == report
    again, fresh = _audit(net, data, out=tmp_path), _audit(net, data)
    assert again.evaluation.records == fresh.evaluation.records


def test_interrupted_in_the_curves_keeps_the_evaluation(net, data):
    def stop_in_curve(event):
        if event.stage.startswith("curve"):
            raise KeyboardInterrupt

    with pytest.raises(AuditInterrupted) as stop:
        _audit(net, data, progress=stop_in_curve)
    assert stop.value.report.evaluation.complete
    assert not stop.value.report.complete


@pytest.mark.parametrize(("mark", "passed"), [(0.0, True), (0.99, False)])
def test_gate_looks_at_the_lower_end(net, data, mark, passed):
    report = _audit(net, data, eps=0.02, fail_under=mark)
    assert report.gate.passed is passed
    tight = report.evaluation.robust_accuracy
    between = (tight.low + tight.value) / 2
    assert not _audit(net, data, eps=0.02, fail_under=between).gate.passed


def test_targeted_audit(net, data):
    report = _audit(net, data, targets=torch.full_like(data[1], 3))
    broken = [r for r in report.evaluation.records if r.broken_by]
    assert broken
    assert all(r.adversarial_prediction == 3 and r.label != 3 for r in broken)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("l1", 4.0), ("l0", 4)])
def test_other_norms(net, data, norm, eps):
    report = sp.audit(net, *data, sp.ThreatModel(norm, eps), effort="quick")
    assert report.evaluation.attack_success_rate.value > 0.3
    assert report.believable


def test_report_is_the_same_twice_but_for_time(net, data):
    def timeless(report):
        plain = json.loads(report.model_dump_json())
        for key in ("created", "seconds", "attacker"):
            del plain[key]
        for stage in plain["evaluation"]["stages"]:
            del stage["seconds"]
        return plain

    assert timeless(_audit(net, data)) == timeless(_audit(net, data))


def test_every_finding_is_raised_somewhere_above():
    import pathlib

    text = pathlib.Path(__file__).read_text()
    missing = [code for code in FINDINGS if f'"{code}"' not in text and code != "interrupted"]
    assert not missing
