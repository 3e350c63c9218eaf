"""The adaptive evaluation against hand-written attacks, and on stacks whose truth is known."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import pytest
import torch
from tests.helpers_core import generator, global_random_state, pictures
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparring as sp
from sparring.defenses import Policy, Stack
from sparring.defenses import detectors as d
from sparring.defenses import transforms as t
from sparring.defenses.adaptive import _scene, _Task
from sparring.defenses.attacking.climb import combined
from sparring.defenses.attacking.objectives import Wrong
from sparring.defenses.attacking.pursuit import pursue
from sparring.defenses.attacking.scene import Judged
from sparring.defenses.attacking.stages import Stage
from sparring.defenses.detection import auroc, detection
from sparring.defenses.outcome import StackOutcome
from sparring.errors import InputError, UnsupportedError
from sparring.rng import Streams

EPS = 0.15


@functools.cache
def net() -> nn.Module:
    return sp.load_model("digits-cnn")


@functools.cache
def held() -> tuple[Tensor, Tensor, Tensor]:
    """Images to calibrate on, then images and labels to attack."""
    images, labels = sp.load_data("digits", lazy=False)
    return images[300:], images[:24], labels[:24]


def by_hand(stack: Stack, images: Tensor, labels: Tensor, *, steps: int = 100, restarts: int = 5) -> Tensor:
    """Images for which a plain PGD with the detector's score in its loss sees an accepted wrong answer."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(1)
    found = torch.zeros(len(images), dtype=torch.bool)
    low, high = (images - EPS).clamp(0, 1), (images + EPS).clamp(0, 1)
    streams = Streams(0, "", [b""] * len(images))
    for weight in (0.0, 0.1, 1.0, 10.0):
        for _ in range(restarts):
            x = (images + EPS * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
            for _ in range(steps):
                x.requires_grad_()
                sight = stack.look(x, streams)
                found |= (sight.answers.argmax(1) != labels) & (sight.excess <= 0).all(1)
                loss = cross_entropy(sight.answers, labels, reduction="sum") - weight * sight.excess.clamp_min(0).sum()
                (grad,) = torch.autograd.grad(loss, x)
                x = (x.detach() + 2.5 * EPS / steps * grad.sign()).clamp(low, high)
    torch.set_rng_state(torch_state)
    return found


def layered() -> Stack:
    clean = held()[0]
    detectors = [kind().fit(net(), clean) for kind in (d.MaxSoftmax, d.FeatureSqueezing, d.Mahalanobis)]
    return Stack(net(), [t.BitDepth(bits=4)], detectors)


@pytest.fixture(scope="module")
def outcome() -> StackOutcome:
    _, images, labels = held()
    return sp.evaluate_stack(layered(), images, labels, sp.ThreatModel("linf", EPS), effort="quick")


def test_it_finds_what_a_hand_written_attack_finds(outcome: StackOutcome) -> None:
    theirs = by_hand(layered(), *held()[1:], steps=30, restarts=1)
    ours = torch.tensor([record.adaptive == 1 for record in outcome.records])
    assert int(theirs.sum()) >= 3, "the comparison says something"
    assert not bool((theirs & ~ours).any())


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        layered,
        lambda: Stack(net(), [t.Median()], [d.FeatureSqueezing().fit(net(), held()[0])]),
        lambda: Stack(net(), [t.GaussianBlur(sigma=0.6)], [d.KernelDensity().fit(net(), held()[0])]),
        lambda: Stack(net(), [], [d.LID().fit(net(), held()[0], threat=sp.ThreatModel("linf", EPS))]),
    ],
)
def test_it_finds_what_a_long_hand_written_attack_finds(make: Callable[[], Stack]) -> None:
    stack, (_, images, labels) = make(), held()
    theirs = by_hand(stack, images, labels)
    found = sp.evaluate_stack(stack, images, labels, sp.ThreatModel("linf", EPS))
    ours = torch.tensor([record.adaptive == 1 for record in found.records])
    assert not bool((theirs & ~ours).any())


def test_every_number_follows_from_the_records_and_the_stack(outcome: StackOutcome) -> None:
    _, images, labels = held()
    stack, n = layered(), len(labels)
    clean, worst = stack(images), stack(outcome.adversarials)
    kept = (clean.labels == labels) & ~clean.flagged
    evades = (worst.labels != labels) & ~worst.flagged
    assert outcome.clean.value == float((clean.labels == labels).double().mean())
    assert outcome.clean_flagged.value == float(clean.flagged.double().mean())
    assert outcome.adaptive.value == float((kept & ~evades).double().mean())
    assert [r.adaptive == 1 for r in outcome.records] == evades.tolist()
    assert bool(sp.ThreatModel("linf", EPS).contains(images, outcome.adversarials).all())
    assert outcome.adaptive <= outcome.naive <= outcome.accepted <= outcome.clean
    assert all(e.n == n for e in (outcome.clean, outcome.naive, outcome.adaptive))
    right = clean.labels == labels
    assert outcome.evaded.value == float(evades[right].double().mean())
    assert outcome.coverage.value == 1 - outcome.clean_flagged.value
    assert all(r.broken_by for r in outcome.records if r.adaptive)


def test_the_naive_number_alone_would_flatter(outcome: StackOutcome) -> None:
    assert outcome.naive > outcome.adaptive
    assert outcome.removed > 0.2
    assert outcome.taken_back > 0.2
    said = outcome.summary
    assert said.startswith("Removed ")
    assert "takes back" in said
    assert "n = 24" in said


def test_the_outcome_is_json(outcome: StackOutcome) -> None:
    plain = json.loads(outcome.to_json())
    assert plain["adaptive"]["n"] == 24
    assert {row["name"] for row in plain["stages"]} >= {"BPDA surrogate, margin", "BPDA identity, margin"}
    assert {"selective PGD", "orthogonal PGD", "logit matching"} <= {row["name"] for row in plain["stages"]}
    assert plain["plausibility"]["half"] == "0.075"
    assert {row["against"] for row in plain["detection"]} >= {"adaptive, fooled only", "adaptive, all attempts"}


def test_it_repeats_itself_and_leaves_no_trace() -> None:
    _, images, labels = held()
    state, threat = global_random_state(), sp.ThreatModel("linf", EPS)
    stack = Stack(net(), [t.Noise(std=0.05)])
    flags = [p.requires_grad for p in net().parameters()]
    first, again = (
        sp.evaluate_stack(stack, images[:1], labels[:1], threat, effort="quick", naive=["fgsm"]) for _ in range(2)
    )
    assert torch.equal(first.adversarials, again.adversarials)
    assert first.adaptive == again.adaptive
    assert first.draws == 50
    assert [c.draws for c in first.convergence] == [1, 4, 16, 32]
    assert all(record.adaptive * 50 == round(record.adaptive * 50) for record in first.records)
    assert global_random_state() == state
    assert [p.requires_grad for p in net().parameters()] == flags


class Halves(nn.Module):
    """Two classes by the mean of the left half; the logits do not depend on the rest."""

    def forward(self, images: Tensor) -> Tensor:
        left = images[:, :, :, : images.shape[3] // 2].flatten(1).mean(1)
        return torch.stack([0.5 - left, left - 0.5], 1) * 20


def test_a_detector_that_flags_everything_does_not_win() -> None:
    images = pictures(60, 1, 4, 4)
    labels = Halves()(images).argmax(1)
    fitted = d.Margin().fit(Halves(), images, fpr=0.9)
    outcome = sp.evaluate_stack(
        Stack(Halves(), detectors=[fitted]), images[:20], labels[:20], sp.ThreatModel("linf", 0.01), effort="quick"
    )
    assert outcome.clean == 1
    assert outcome.clean_flagged > 0.6
    assert outcome.adaptive < 0.4
    assert outcome.coverage.value == pytest.approx(1 - outcome.clean_flagged.value)


def test_bpda_opens_what_rounding_hides() -> None:
    """A stack whose own gradient is zero everywhere: only a declared surrogate gets through."""
    images = 0.5 + 0.1 * (pictures(16, 1, 4, 4) - 0.5)
    labels = (Stack(Halves(), [t.BitDepth(bits=2)])(images)).labels
    threat = sp.ThreatModel("linf", 0.4)
    outcome = sp.evaluate_stack(Stack(Halves(), [t.BitDepth(bits=2)]), images, labels, threat, effort="quick")
    assert outcome.adaptive == 0


def test_eot_beats_one_draw_on_a_random_stack() -> None:
    """The gradient of one draw points anywhere, their mean does not: an oracle with large noise."""
    images = torch.full((12, 1, 6, 6), 0.55)
    stack = Stack(Halves(), [t.Noise(std=0.3)])
    labels = torch.ones(12, dtype=torch.int64)
    scene = _scene(_Task(stack, images, labels, sp.ThreatModel("linf", 0.1), 0, 50), 64)
    found, _ = pursue(scene, [Stage("EOT", Wrong(), 20, draws=16)], [], lambda *_: None)
    left = found.points[:, :, :, :3]
    torch.testing.assert_close(left, torch.full_like(left, 0.45), atol=2e-2, rtol=0)


def test_draws_differ_between_images_and_among_themselves() -> None:
    """On the boundary half of the draws evade, and equal images have draws of their own."""
    images = torch.full((2, 1, 6, 6), 0.5) + torch.tensor([0.0, 1e-6]).view(2, 1, 1, 1)
    stack = Stack(Halves(), [t.Noise(std=0.1)])
    scene = _scene(_Task(stack, images, torch.ones(2).long(), sp.ThreatModel("linf", 0.1), 0, 50), 64)
    judged = scene.judged(images, "test", 200)
    assert bool(((judged.rate > 0.35) & (judged.rate < 0.65)).all())
    assert judged.rate[0] != judged.rate[1]
    again = scene.select(torch.tensor([1])).judged(images[1:], "test", 200)
    assert again.rate[0] == judged.rate[1]


def test_a_purified_answer_that_is_wrong_counts() -> None:
    clean, images, labels = held()
    fitted = d.MaxSoftmax().fit(net(), clean)
    policy = Policy(flagged="purify", purifier=(t.Median(),))
    stack = Stack(net(), detectors=[fitted], policy=policy)
    threat = sp.ThreatModel("linf", EPS)
    outcome = sp.evaluate_stack(stack, images[:10], labels[:10], threat, effort="quick", naive=["fgsm"])
    wrong = stack(outcome.adversarials).labels != labels[:10]
    assert [r.adaptive == 1 for r in outcome.records] == wrong.tolist()
    assert outcome.coverage == 1


def test_directions() -> None:
    g = generator(2)
    first, second = torch.randn(2, 1, 2, 2, generator=g), torch.randn(2, 1, 2, 2, generator=g)
    lead = torch.tensor([1.0, -1.0])  # the first image is still answered right
    judged = Judged(lead * 0, lead, lead)
    chosen = combined("selective", [first, second], judged)
    assert torch.equal(chosen[0], first[0])
    assert torch.equal(chosen[1], second[1])
    orthogonal = combined("orthogonal", [first, second], judged)
    assert abs(float((orthogonal[0] * second[0]).sum())) < 1e-5
    assert abs(float((orthogonal[1] * first[1]).sum())) < 1e-5
    assert torch.equal(combined("sum", [first, second], judged), first + second)


def test_rates_and_areas_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    g = generator(0)
    clean, attacked = torch.randn(199, generator=g), torch.randn(80, generator=g) + 1
    attacked[:5] = clean[:5]
    found = auroc(clean, attacked)
    expected = roc_auc_score([0] * 199 + [1] * 80, torch.cat([clean, attacked]).numpy())
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low < expected < found.high
    seen = detection("x", "y", 1.0, clean, attacked)
    line = sorted(clean.tolist())[189]
    assert seen.tpr[0.05].value == float((attacked > line).double().mean())
    assert seen.flagged.value == float((attacked > 1.0).double().mean())


def test_a_model_that_shows_only_logits_is_searched() -> None:
    _, images, labels = held()
    stack = Stack(sp.BlackBox(net(), access="logits"), [t.Median()])
    threat = sp.ThreatModel("linf", 0.3)
    outcome = sp.evaluate_stack(stack, images[:4], labels[:4], threat, effort="quick", naive=["random_noise:draws=5"])
    assert [row.name for row in outcome.stages] == ["gradient-free search"]
    assert "no gradients" in outcome.notes[0]
    assert outcome.adaptive < 1
    with pytest.raises(UnsupportedError):
        sp.evaluate_stack(stack, images[:4], labels[:4], threat, effort="quick")


def test_bad_arguments_are_refused() -> None:
    _, images, labels = held()
    stack, threat = Stack(net()), sp.ThreatModel("linf", 0.1)
    for wrong in (
        lambda: sp.evaluate_stack(net(), images, labels, threat),
        lambda: sp.evaluate_stack(stack, images, labels, 0.1),
        lambda: sp.evaluate_stack(stack, images, labels[:3], threat),
        lambda: sp.evaluate_stack(stack, images * 255, labels, threat),
        lambda: sp.evaluate_stack(stack, images, labels, threat, draws=10),
        lambda: sp.evaluate_stack(stack, images, labels, threat, effort="huge"),
        lambda: sp.evaluate_stack(stack, images, labels, sp.ThreatModel("linf", 0.1, (-1, 1))),
        lambda: sp.evaluate_stack(stack, images, labels + 7, threat),
        lambda: sp.evaluate_stack(stack, images, labels, threat, naive=["pdg"]),
    ):
        with pytest.raises(InputError):
            wrong()
