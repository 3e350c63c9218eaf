"""Were the attacks strong enough? Each check has a model or an attack that raises it, and one that must not."""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from tests.edges.auditing_models import EPS, Around, Misled, audited, found, replayed
from torch import nn

import sparring as sp
from sparring.attacks import FGSM, Attack
from sparring.auditing import curves, gradients, insight, remedies, strength
from sparring.auditing.report import Curve, CurvePoint, Interval
from sparring.diagnosis.indirect import BestSeen
from sparring.estimate import proportion

NEW = {
    "gradient-underflow",
    "unstable-loss",
    "success-does-not-grow",
    "more-steps-help",
    "transfer-wins",
    "surrogate-only",
    "silent-success",
}


@pytest.fixture(scope="module", autouse=True)
def short():
    """What the remedies do is not in question here."""
    with mock.patch.object(remedies, "LONG", 20), mock.patch.object(remedies, "SEARCH", 500):
        yield


@pytest.fixture(scope="module")
def data():
    images, labels = sp.load_data("digits", n=40)
    return images[0:40], labels


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


@pytest.fixture(scope="module")
def honest(net, data):
    return audited(net, data)


def raised(code, model, data, eps=EPS, **options):
    """The report of a quick audit and its finding of that code, whose script has something to say."""
    with mock.patch.object(curves, "STEPS", (1.0, 2.0)), mock.patch.object(insight, "SAMPLE", 0):
        report = sp.audit(model, *data, sp.ThreatModel("linf", eps), effort="quick", **options)
        (finding,) = found(report, code)
        assert replayed(finding.replay, model=model, images=data[0], labels=data[1]).strip()
    return report, finding


def test_an_honest_model_raises_none_of_them(honest):
    assert not NEW & {f.code for f in honest.findings}


def test_gradients_lost_in_float32_are_taken_in_float64(net, data, honest):
    report, finding = raised("gradient-underflow", Around(net, after=lambda z: 3e-44 * z), data)
    assert finding.resolved
    assert "float64's" in finding.evidence
    left = report.evaluation.robust_accuracy.value - honest.evaluation.robust_accuracy.value
    assert left <= 0.03


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_precise_gradients_are_those_of_the_model(net, data, norm):
    from sparring.diagnosis.precision import InDouble, more_precise

    images, labels = data
    threat = sp.ThreatModel(norm, 0.1 if norm == "linf" else 0.8)
    small = Around(net, after=lambda z: 3e-44 * z)
    precise, said, _ = more_precise(small, images[:32], labels[:32], threat) or (None, "", 0.0)
    assert isinstance(precise, InDouble)
    assert "float64's" in said
    model = InDouble(net)
    x = images[:8].clone().requires_grad_()
    (ours,) = torch.autograd.grad(model(x)[:, 3].sum(), x)
    (theirs,) = torch.autograd.grad(net(x)[:, 3].sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.equal(model(x).detach(), net(x).detach())


def test_a_rough_model_is_noticed_and_a_smooth_one_is_not(net, data):
    images, labels = data

    def rough(x):
        return x + 0.05 * torch.sin(9999 * x) * torch.cos(7777 * x.flip(2))

    for scale in (1.0, 1e3):
        (finding,) = gradients.stability(
            Around(net, before=rough, after=lambda z, s=scale: s * z), images, labels, (0, 1)
        )
        assert finding.code == "unstable-loss"
        assert not gradients.stability(Around(net, after=lambda z, s=scale: s * z), images, labels, (0, 1))
    report, finding = raised("unstable-loss", lambda x: net(rough(x)), (images[:20], labels[:20]))
    assert finding.undermines
    assert report.evaluation.robust_accuracy.value < 0.7


def curve(*shares: float, n: int = 100) -> list[Curve]:
    steps = (0.0, 0.1, 0.2, 0.3)
    points = tuple(
        CurvePoint(eps=e, accuracy=Interval.of(proportion(round(s * n), n))) for e, s in zip(steps, shares, strict=True)
    )
    return [Curve(attack="quick attacks", norm="linf", points=points)]


@pytest.mark.parametrize(
    ("shares", "raised"),
    [
        ((0.98, 0.70, 0.70, 0.70), True),
        ((0.98, 0.70, 0.69, 0.68), True),
        ((0.98, 0.70, 0.40, 0.20), False),
        ((0.98, 0.96, 0.96, 0.96), False),  # too few fell to say
        ((0.98, 0.98, 0.98, 0.98), False),
        ((0.98, 0.03, 0.02, 0.02), False),  # hardly any left
        ((0.98, 0.10, 0.00, 0.00), False),
    ],
)
def test_success_that_does_not_grow(shares, raised):
    assert bool(strength.not_growing(curve(*shares), 0.1)) is raised


class OnlySome(torch.autograd.Function):
    """The identity, with a gradient only near every other one of some pictures."""

    @staticmethod
    def forward(ctx, x, known):
        ctx.even = torch.cdist(x.flatten(1), known.flatten(1)).argmin(1) % 2 == 0
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.even.view(-1, 1, 1, 1), None


def test_a_blind_spot_shows_in_the_curve_and_is_searched(net, data):
    few = (data[0][:24], data[1][:24])
    report, finding = raised("success-does-not-grow", lambda x: net(OnlySome.apply(x, few[0])), few)
    assert "stand" in finding.evidence
    assert not report.believable
    assert any(stage.purpose.startswith("remedy") for stage in report.evaluation.stages)


def test_short_attacks_are_lengthened_until_it_no_longer_helps(net, data, honest):
    attacks = ["pgd:steps=2,step_size=0.01,random_start=false"]
    report, finding = raised("more-steps-help", net, data, attacks=attacks)
    assert "pgd:steps=32,step_size=0.01,random_start=false breaks" in finding.evidence
    assert report.evaluation.robust_accuracy.value <= honest.evaluation.robust_accuracy.value + 0.02


def test_a_surrogate_breaks_what_a_false_gradient_leaves(net, data):
    attacks = ["pgd:steps=10,random_start=false"]
    report, finding = raised("transfer-wins", lambda x: net(Misled.apply(x)), data, 0.25, attacks=attacks)
    assert "distilled from" in finding.evidence
    assert report.evaluation.robust_accuracy.value < 0.2


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Attack):
    """FGSM on another model than the one under attack."""

    def run(self, problem):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        return FGSM()(other, problem.images, problem.goal, problem.threat)


def test_an_attack_made_elsewhere_says_little(net, data):
    few = (data[0][:24], data[1][:24])
    report, _ = raised("surrogate-only", net, few, attacks=[Elsewhere()])
    assert report.evaluation.robust_accuracy.value < 0.4
    assert not found(audited(net, few, attacks=["fgsm"]), "surrogate-only")


@dataclass(frozen=True, kw_only=True)
class Overshooting(Attack):
    """Finds adversarials with one step, and walks on back to where it came from."""

    def run(self, problem):
        grad = problem.gradient(problem.images, "margin").grad
        points = problem.region.steepest_step(grad) + problem.images
        problem.logits(points.clamp(problem.region.lower, problem.region.upper))
        return problem.images


@dataclass(frozen=True, kw_only=True)
class Keeping(Attack):
    """The same with a memory."""

    def run(self, problem):
        grad = problem.gradient(problem.images, "margin").grad
        points = problem.region.steepest_step(grad) + problem.images
        return points.clamp(problem.region.lower, problem.region.upper)


def test_points_that_an_attack_passed_by_count(net, data):
    few = (data[0][:24], data[1][:24])
    report, finding = raised("silent-success", net, few, attacks=[Overshooting()])
    assert finding.resolved
    assert report.evaluation.robust_accuracy.value < 0.6
    assert not found(audited(net, few, attacks=[Keeping()]), "silent-success")


def test_the_best_point_seen_is_inside_and_met(net, data):
    images, labels = data
    threat = sp.ThreatModel("linf", EPS)
    points = BestSeen(Overshooting())(net, images, sp.Untargeted(labels), threat)
    assert bool(threat.contains(images, points).all())
    moved = (points != images).flatten(1).any(1)
    assert int(moved.sum()) > 10
    with torch.no_grad():
        assert bool((net(points).argmax(1) != labels)[moved].all())
    assert str(BestSeen(Overshooting())).endswith("best point seen")


def test_large_logits_are_scaled_down_for_the_cross_entropy(net, data):
    few = (data[0][:24], data[1][:24])
    report, _ = raised("vanishing-cross-entropy", Around(net, after=lambda z: 1000 * z), few, attacks=["pgd:steps=10"])
    assert any("on smaller logits" in stage.attack and stage.broke for stage in report.evaluation.stages)
    assert report.evaluation.robust_accuracy.value < 0.4
