"""Preflight's second look at gradients: do they fit into float32, and is the model smooth on the smallest scale?"""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.auditing.findings import FINDINGS
from sparring.auditing.report import Finding
from sparring.diagnosis.precision import in_double, unfit
from sparring.goal import Untargeted
from sparring.losses import margin
from sparring.model import Model, logits_of

NEAR, FAR = 0.0005, 0.005
"""Radii of random draws, in units of the box."""
DRAWS, DRAWN_ON = 8, 16
ROUGH = 0.3
"""Change at the near radius by that at the far one: 0.1 where the model is smooth, 1 where it is not at all."""


def precision(model: Model, images: Tensor, labels: Tensor, grad: Tensor) -> list[Finding]:
    """Margins' gradients (N, C, H, W) that float32 loses and float64 has."""
    lost = unfit(grad)
    if not bool(lost.any()) or in_double(model, images[lost], labels[lost]) is None:
        return []
    evidence = f"{int(lost.sum())} of {len(grad)} gradients of the margin are lost in float32 and there in float64"
    return [FINDINGS["gradient-underflow"].found(evidence)]


def stability(model: Model, images: Tensor, labels: Tensor, bounds: tuple[float, float]) -> list[Finding]:
    """Mean change of the margin under random draws of two sizes: a tenth of the radius, a tenth of the change."""
    images, labels = images[:DRAWN_ON], labels[:DRAWN_ON]
    generator, goal = torch.Generator().manual_seed(0), Untargeted(labels)
    changes = []
    with torch.no_grad():
        before = margin(logits_of(model, images).float(), goal)
        for radius in (NEAR, FAR):
            total = torch.zeros_like(before)
            for _ in range(DRAWS):
                noise = (2 * torch.rand(images.shape, generator=generator) - 1).to(images)
                moved = (images + radius * (bounds[1] - bounds[0]) * noise).clamp(*bounds)
                total += (margin(logits_of(model, moved).float(), goal) - before).abs()
            changes.append(total / DRAWS)
    ratio = changes[0] / changes[1]
    visible = (changes[1] > 1e-4 * before.abs()) & ratio.isfinite()
    if not bool(visible.any()) or float(ratio[visible].median()) <= ROUGH:
        return []
    evidence = (
        f"random changes of {NEAR:g} of the range move the margin {float(ratio[visible].median()):.2f} times as far as "
        f"ten times larger ones (median of {int(visible.sum())} images; about 0.1 where a model is smooth)"
    )
    return [FINDINGS["unstable-loss"].found(evidence)]
