"""Images that are proved need no attack, but for the few that are attacked all the same."""

from __future__ import annotations

import pytest
import torch
from tests.helpers_core import Linear, pictures

import sparring as sp
from sparring.certification import always_attacked
from sparring.errors import InputError

THREAT = sp.ThreatModel("linf", 0.02)
N = 120


@pytest.fixture(scope="module")
def case():
    """A linear model, its images, and which of them its closed form says are safe."""
    model, images = Linear(16, 3, seed=1), pictures(N, 1, 4, 4)
    labels = model(images).argmax(1)
    labels[::10] = (labels[::10] + 1) % 3  # some are wrong from the start
    return model, images, labels, sp.certify(model, images, labels, THREAT, method="crown").certified


def test_most_certified_images_are_left_alone_and_count_as_robust(case):
    model, images, labels, proved = case
    found = sp.evaluate(model, images, labels, THREAT, effort="standard", certified=proved)
    plain = sp.evaluate(model, images, labels, THREAT, effort="standard")
    attacked = [r for r in found.records if r.certified and r.attacked]
    spared = [r for r in found.records if r.certified and not r.attacked]
    assert int(proved.sum()) == len(attacked) + len(spared) > 40
    assert len(attacked) == max(1, round(0.05 * int(proved.sum())))
    assert all(r.forwards <= 2 and r.backwards == 0 for r in spared)
    assert found.robust_accuracy == plain.robust_accuracy
    assert found.attack_success_rate == plain.attack_success_rate
    assert max(stage.tried for stage in found.stages) <= N - len(spared)
    assert found.missed_bound is not None
    assert found.missed_bound <= plain.missed_bound


def test_a_drawn_image_with_a_false_certificate_is_broken(case):
    model, images, labels, _ = case
    everything = torch.ones(N, dtype=torch.bool)
    found = sp.evaluate(model, images, labels, sp.ThreatModel("linf", 0.4), attacks=["pgd"], certified=everything)
    assert any(r.certified and r.broken_by for r in found.records)
    assert not any(r.certified for r in found.records if r.prediction != r.label)


def test_the_draw_depends_on_contents_and_seed_alone(case):
    model, images, labels, proved = case

    def drawn(order, batch_size, seed=0):
        found = sp.evaluate(
            model, images[order], labels[order], THREAT, attacks=["fgsm"], certified=proved[order], seed=seed,
            batch_size=batch_size,
        )  # fmt: skip
        return {r.digest for r in found.records if r.certified and r.attacked}

    forwards, backwards = torch.arange(N), torch.arange(N - 1, -1, -1)
    assert drawn(forwards, 7) == drawn(backwards, 64)
    assert drawn(forwards, 7) != drawn(forwards, 7, seed=1)
    assert not bool(always_attacked(torch.zeros(3, dtype=torch.bool), ["a", "b", "c"], 0).any())


def test_records_of_one_mask_are_not_those_of_another(case, tmp_path):
    model, images, labels, proved = case
    for mask in (None, proved, proved & (torch.arange(N) > 50)):
        sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=mask, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    again = sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=proved, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert again.records == sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=proved).records


@pytest.mark.parametrize("mask", [torch.ones(3, dtype=torch.bool), torch.ones(N), [True] * N])
def test_a_mask_is_one_truth_value_per_image(case, mask):
    model, images, labels, _ = case
    with pytest.raises(InputError, match="certified"):
        sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=mask)
