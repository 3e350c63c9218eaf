"""Half clean, half FGSM (Goodfellow, Shlens & Szegedy 2015, arXiv:1412.6572)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.hardening.craft import against_labels, input_gradient
from sparring.hardening.method import Batch, Method
from sparring.model import frozen_eval
from sparring.norms import per_image


@dataclass(frozen=True, kw_only=True)
class FGSMMix(Method):
    """Every image twice, as it is and after one FGSM step, both with the true label: (J(x) + J(x + eps·sign ∇J)) / 2.

    sampled: draw each image's budget instead of using all of it, |N(0, eps/2)| cut at eps (Kurakin et al. 2017,
    arXiv:1611.01236), which keeps the model from learning one size of step by heart. Historical: it withstands FGSM
    and falls to any attack with several steps.
    """

    paper: ClassVar[str] = "Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    copies: ClassVar[int] = 2

    sampled: bool = False

    def craft(self, batch: Batch) -> Tensor:
        """The images after one step."""
        with frozen_eval(batch.module):
            grad = input_gradient(batch, batch.images, against_labels(batch))
        step = batch.threat.around(batch.images).steepest_step(grad)
        if self.sampled:
            share = (batch.draws.normal((1,), batch.images) / 2).abs().clamp_max(1)
            step = step * per_image(share, step)
        return batch.images + step

    def loss(self, batch: Batch, points: Tensor) -> Tensor:
        """Mean over both halves, which pass through the model together."""
        logits = batch.learner(torch.cat([batch.images, points]))
        return batch.criterion.learn(logits, torch.cat([batch.labels, batch.labels])).mean()
