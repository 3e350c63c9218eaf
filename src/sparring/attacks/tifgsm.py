"""Translation-invariant iterative FGSM (Dong et al. 2019, arXiv:1904.02884)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sparring.attacks.transfer import OneIdea


@dataclass(frozen=True, kw_only=True)
class TIFGSM(OneIdea):
    """TI-MI-FGSM: momentum along gradients smoothed by a Gaussian, as if averaged over shifts of the picture.

    steps: 10. step_size: in image units, None for eps/steps. decay: 1 with momentum, 0 for TI-BIM. kernel: width of the
    Gaussian in pixels, odd, cut at three standard deviations: 15 in the paper, for pictures of 299 pixels; take less
    for small ones. early_stop: solved images leave at once; off, as the adversarials are meant to transfer.
    """

    paper: ClassVar[str] = "Dong et al., Evading Defenses by Translation-Invariant Attacks, CVPR 2019"
    without: ClassVar[dict[str, Any]] = {"nesterov": False, "scales": 1, "diversity": 0.0}

    kernel: int = 15
