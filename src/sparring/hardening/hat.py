"""Helper-based adversarial training (Rade & Moosavi-Dezfooli 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.hardening.method import Batch
from sparring.model import frozen_eval

STRETCH = 2.0
"""How far beyond the adversarial the helper lies: h of the paper."""


def helper_loss(batch: Batch, points: Tensor, standard: nn.Module) -> Tensor:
    """The loss at x + h·(x' - x), labelled as a normally trained model sees x'.

    Such points lie so far out that a person may well see another class there; training on their own label keeps the
    margin from growing without need, which gives back clean accuracy. The paper's weight is 0.5, with TRADES' beta 2.5.
    """
    with frozen_eval(standard), torch.no_grad():
        labels = standard(points).argmax(1)
    low, high = batch.threat.bounds
    helpers = (batch.images + STRETCH * (points - batch.images)).clamp(low, high)
    return batch.criterion.learn(batch.learner(helpers), labels).mean()
