"""Images that are proved need no attack, but for the few that are attacked all the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.helpers_core import Linear, pictures

import sparring as sp
from sparring.certification import always_attacked
from sparring.errors import InputError
from sparring.evaluation.driver import DISPROVED

THREAT = sp.ThreatModel("linf", 0.02)
N = 120


@pytest.fixture(scope="module")
def case():
    """A linear model, its images, and which of them its closed form says are safe."""
    model, images = Linear(16, 3, seed=1), pictures(N, 1, 4, 4)
    labels = model(images).argmax(1)
    labels[::10] = (labels[::10] + 1) % 3  # some are wrong from the start
    return model, images, labels, sp.certify(model, images, labels, THREAT, method="crown")


def test_most_certified_images_are_left_alone_and_count_as_robust(case):
    model, images, labels, proved = case
    found = sp.evaluate(model, images, labels, THREAT, effort="standard", certified=proved)
    plain = sp.evaluate(model, images, labels, THREAT, effort="standard")
    attacked = [r for r in found.records if r.certified and r.attacked]
    spared = [r for r in found.records if r.certified and not r.attacked]
    count = int(proved.certified.sum())
    assert count == len(attacked) + len(spared) > 40
    assert len(attacked) == max(1, round(0.05 * count))
    assert all(r.forwards <= 2 and r.backwards == 0 for r in spared)
    assert found.robust_accuracy == plain.robust_accuracy
    assert found.attack_success_rate == plain.attack_success_rate
    assert max(stage.tried for stage in found.stages) <= N - len(spared)
    assert found.missed_bound is not None
    assert found.missed_bound <= plain.missed_bound


def test_a_false_certificate_is_thrown_away_and_everything_attacked(case):
    model, images, labels, proof = case
    threat = sp.ThreatModel("linf", 0.4)
    false = replace(proof, eps=0.4, certified=proof.right)
    found = sp.evaluate(model, images, labels, threat, attacks=["pgd"], certified=false)
    assert found.records == sp.evaluate(model, images, labels, threat, attacks=["pgd"]).records
    assert DISPROVED in found.warnings


def test_the_draw_depends_on_contents_and_seed_alone(case):
    model, images, labels, proved = case

    def drawn(order, batch_size, seed=0):
        found = sp.evaluate(
            model, images[order], labels[order], THREAT, attacks=["fgsm"], certified=part(proved, order), seed=seed,
            batch_size=batch_size,
        )  # fmt: skip
        return {r.digest for r in found.records if r.certified and r.attacked}

    forwards, backwards = torch.arange(N), torch.arange(N - 1, -1, -1)
    assert drawn(forwards, 7) == drawn(backwards, 64)
    assert drawn(forwards, 7) != drawn(forwards, 7, seed=1)
    assert not bool(always_attacked(torch.zeros(3, dtype=torch.bool), ["a", "b", "c"], 0).any())


def test_records_of_one_mask_are_not_those_of_another(case, tmp_path):
    model, images, labels, proved = case
    fewer = replace(proved, certified=proved.certified & (torch.arange(N) > 50))
    for proof in (None, proved, fewer):
        sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=proof, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    again = sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=proved, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert again.records == sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=proved).records


def part(proof, order):
    rows = {name: getattr(proof, name)[order] for name in ("labels", "prediction", "certified")}
    return replace(proof, **rows, images=tuple(proof.images[i] for i in order))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.01}, "linf eps 0.01"),
        ({"norm": "l2"}, "l2 eps"),
        ({"method": "smoothing"}, "smoothed model"),
        ({"labels": torch.zeros(N, dtype=torch.int64)}, "other labels"),
        ({"prediction": torch.full((N,), 2)}, "another model"),
        ({"model": "0" * 64}, "another model"),
        ({"images": ("0" * 16,) * N}, "other images"),
    ],
)
def test_a_certificate_of_something_else_is_refused(case, change, message):
    model, images, labels, proved = case
    with pytest.raises(InputError, match=message):
        sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=replace(proved, **change))


@pytest.mark.parametrize("mask", [torch.ones(N, dtype=torch.bool), [True] * N])
def test_a_bare_mask_is_no_certificate(case, mask):
    model, images, labels, _ = case
    with pytest.raises(InputError, match=r"sp\.certify"):
        sp.evaluate(model, images, labels, THREAT, attacks=["fgsm"], certified=mask)
