"""Diverse-input iterative FGSM (Xie et al. 2019, arXiv:1803.06978)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sparring.attacks.transfer import OneIdea


@dataclass(frozen=True, kw_only=True)
class DIFGSM(OneIdea):
    """M-DI²-FGSM: momentum along gradients of pictures that were, now and then, shrunk and put at a random place.

    steps: 10. step_size: in image units, None for eps/steps. decay: 1 with momentum, 0 for the paper's plain DI²-FGSM.
    diversity: the chance of a change, 0.5 in the paper. shrink: the smallest size, 0.9 (the paper's 299 of 330 pixels).
    early_stop: solved images leave at once; off, as the adversarials are meant to transfer.
    """

    paper: ClassVar[str] = "Xie et al., Improving Transferability with Input Diversity, CVPR 2019"
    without: ClassVar[dict[str, Any]] = {"nesterov": False, "scales": 1, "kernel": 1}

    diversity: float = 0.5
    shrink: float = 0.9
