"""Half clean, half FGSM (Goodfellow, Shlens & Szegedy 2015, arXiv:1412.6572)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.hardening.craft import against_labels, input_gradient
from sparring.hardening.method import Batch, Method
from sparring.model import frozen_eval


@dataclass(frozen=True, kw_only=True)
class FGSMMix(Method):
    """Every image twice, as it is and after one FGSM step, both with the true label: (J(x) + J(x + eps·sign ∇J)) / 2.

    sampled: draw each image's budget instead of using all of it, |N(0, eps/2)| truncated at eps (Kurakin et al. 2017,
    arXiv:1611.01236), which keeps the model from learning one size of step by heart. Historical: it withstands FGSM
    and falls to any attack with several steps.
    """

    paper: ClassVar[str] = "Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    copies: ClassVar[int] = 2
    beside: ClassVar[bool] = True

    sampled: bool = False

    def craft(self, batch: Batch) -> Tensor:
        """The images after one step."""
        with frozen_eval(batch.module):
            grad = input_gradient(batch, batch.images, against_labels(batch))
        region = batch.threat.around(batch.images)
        if not self.sampled:
            return batch.images + region.steepest_step(grad)
        share = torch.erfinv(batch.draws.uniform((), batch.images) * math.erf(2**0.5)) / 2**0.5
        return region.advance(batch.images, grad, share * batch.threat.eps)

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean over both halves, which pass through the model together."""
        logits = batch.learner(self.shown(batch, points))
        return batch.criterion.learn(logits, torch.cat([batch.labels, batch.labels])).mean()
