"""What training says of a model, against closed forms: other norms, batch-norm statistics, the name of a gap."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers_core import Linear, pictures, small_net
from torch import nn
from torch.nn.functional import softplus

from sparring.hardening.evidence import in_other_norms
from sparring.hardening.history import Epoch
from sparring.hardening.job import Job
from sparring.hardening.recipe import chosen
from sparring.hardening.watch import Sight, collapsed
from sparring.threat import ThreatModel

INSIDE = 0.4 + 0.2 * pictures(6, 1, 4, 4, seed=2)
"""Images that no budget of 0.1 takes to the box."""


@pytest.mark.parametrize("eps", [0.002, 0.02])
def test_the_loss_in_other_norms_is_that_of_every_image(eps: float) -> None:
    """On a linear model it is known; an image that withstands counts with its loss at the end, not as it was."""
    model, labels = Linear(16, classes=2), torch.tensor([0, 1, 0, 1, 0, 1])
    rows = in_other_norms(model, model, INSIDE, labels, ThreatModel("linf", eps), 0)
    gap = (model.weight[1 - labels] - model.weight[labels]).detach()
    logits = model(INSIDE).detach()
    behind = (logits.gather(1, 1 - labels[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
    gain = {"l2": gap.norm(dim=1), "l1": gap.abs().amax(1)}
    assert {row.norm for row in rows} == set(gain)
    for row in rows:
        by_hand = softplus(behind + row.eps * gain[row.norm]).mean()
        assert row.loss_after == row.loss_before == pytest.approx(float(by_hand), rel=2e-3)


def test_no_attack_meets_statistics_that_are_being_taken() -> None:
    """The points for the averaged weights' statistics are made against a model that has some."""
    net = nn.Sequential(nn.BatchNorm2d(1), small_net())
    assert isinstance(net[0], nn.BatchNorm2d)
    assert net[0].num_batches_tracked is not None
    net[0].num_batches_tracked += 1
    seen: list[bool] = []

    def look(layer: nn.Module, _: object) -> None:
        if not layer.training:
            seen.append(bool(layer.num_batches_tracked > 0))

    net[0].register_forward_pre_hook(look)
    data = pictures(24, 1, 8, 8, seed=3), torch.arange(24) % 10
    job = Job.build(net, data, ThreatModel("linf", 0.1), chosen("fast", {"epochs": 1, "batch_size": 6}), 0, None)
    with torch.random.fork_rng(devices=[]):
        job.trainer(lambda _: None).run()
    assert seen
    assert all(seen)


def test_a_gap_that_opens_with_the_budget_is_not_called_overfitting() -> None:
    """Fast training on MNIST whose budget grew to 0.3: PGD-10 fell to a quarter and rose to 60 % afterwards."""
    past = [
        Epoch(
            number=i, method="rs_fgsm", loss=1.0, rate=0.1, eps=0.08 * i, clean=0.97, fgsm=0.8, pgd=0.9 - 0.2 * i,
            aligned=0.9, seconds=1.0, watch_seconds=0.1,
        )
        for i in (1, 2)
    ]  # fmt: skip
    seen = Sight(0.97, 0.7, 0.37, 0.9, 200)
    assert "falls behind" in collapsed(seen, past, 0.24)
    assert "catastrophic" not in collapsed(seen, past, 0.24)
    still = [dataclasses.replace(epoch, eps=0.24) for epoch in past]
    assert "catastrophic" in collapsed(seen, still, 0.24)
