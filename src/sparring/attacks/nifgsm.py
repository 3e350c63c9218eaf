"""Nesterov iterative FGSM, and its scale-invariant form (Lin et al. 2020, arXiv:1908.06281)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sparring.attacks.transfer import OneIdea


@dataclass(frozen=True, kw_only=True)
class NIFGSM(OneIdea):
    """MI-FGSM with its gradient taken where the momentum leads: at x + step_size·decay·v.

    steps, decay: the paper's. step_size: in image units, None for eps/steps. scales: copies of the image at full, half,
    quarter ... brightness whose gradients are averaged; 5 is the paper's SI-NI-FGSM. early_stop: solved images leave
    at once; off, as the adversarials are meant to transfer.
    """

    paper: ClassVar[str] = "Lin et al., Nesterov Accelerated Gradient and Scale Invariance, ICLR 2020"
    without: ClassVar[dict[str, Any]] = {"diversity": 0.0, "kernel": 1}

    scales: int = 1
