"""Models with randomness: the seed decides, nothing outside is disturbed, chance is not mistaken for an attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sparring as sp
from sparring.diagnosis.randomised import DRAWS, MOST, drawn

IMAGES = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.zeros(80, dtype=torch.int64)
THREAT = sp.ThreatModel("linf", 0.1)


class Noisy(nn.Module):
    """A linear rule behind dropout that is on at inference."""

    def forward(self, x: Tensor) -> Tensor:
        total = nn.functional.dropout(x, 0.5, training=True).flatten(1).mean(1) - 0.49
        return torch.stack([total, -total], 1)


class Coin(nn.Module):
    """Right with probability 0.7 whatever it is shown: no attack can change that."""

    def forward(self, x: Tensor) -> Tensor:
        heads = (torch.rand(len(x)) < 0.7).float()
        return torch.stack([heads, 1 - heads], 1) + 0 * x.flatten(1).mean(1, keepdim=True)


def test_the_seed_decides_and_the_worlds_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = sp.evaluate(Noisy(), IMAGES, LABELS, THREAT, attacks=["pgd:steps=5"])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again = sp.evaluate(Noisy(), IMAGES, LABELS, THREAT, attacks=["pgd:steps=5"])
    assert again.records == first.records
    other = sp.evaluate(Noisy(), IMAGES, LABELS, THREAT, attacks=["pgd:steps=5"], seed=1)
    assert other.records != first.records


def test_a_resumed_run_draws_what_the_whole_one_drew(tmp_path) -> None:
    short = sp.evaluate(Noisy(), IMAGES, LABELS, THREAT, attacks=["pgd:steps=5"], out=tmp_path)
    (records,) = tmp_path.glob("*/records.jsonl")
    text = records.read_text()
    records.write_text(text[: len(text) * 2 // 3])
    assert sp.evaluate(Noisy(), IMAGES, LABELS, THREAT, attacks=["pgd:steps=5"], out=tmp_path).records == short.records


def test_chance_takes_nothing_off_a_model_that_no_attack_can_move() -> None:
    found = drawn(Coin(), IMAGES, LABELS, THREAT)
    assert abs(float(found.clean.mean()) - 0.7) < 0.03
    assert abs(float(found.worst.mean()) - 0.7) < 0.03, "80 images, 50 draws: a standard error of 0.007"


class Together(nn.Module):
    """A coin for all images of a call at once: a mean over draws is as uncertain as one image's."""

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.rand(1) < 0.5
        return torch.where(heads, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).expand(len(x), 2)


def test_uncertain_means_get_more_draws() -> None:
    many = drawn(Together(), IMAGES, LABELS, THREAT, attacks=())
    assert many.draws == MOST
    assert torch.equal(many.clean, many.worst)
    sure = drawn(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), IMAGES, LABELS, THREAT, attacks=())
    assert sure.draws == DRAWS


def test_an_audit_bills_the_attacks_in_expectation() -> None:
    report = sp.audit(Noisy(), IMAGES[:40], LABELS[:40], THREAT, effort="quick")
    judged = [stage for stage in report.evaluation.stages if "judged by fresh draws" in stage.purpose]
    assert judged
    assert all(stage.forwards > 40 and stage.seconds > 0 for stage in judged)
    assert sum(r.forwards for r in report.evaluation.records) >= sum(s.forwards for s in judged)
