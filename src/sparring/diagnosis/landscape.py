"""The loss and the predicted class in a plane through an image, and what a failure looks like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.diagnosis.result import Failure, Landscape
from sparring.diagnosis.taylor import gradient, losses_from
from sparring.diagnosis.work import answers
from sparring.goal import Untargeted
from sparring.model import Model, frozen_eval, logits_of
from sparring.norms import per_image
from sparring.threat import ThreatModel

SIDE, COARSE = 21, 11
"""Points along a side of a picture; of one around a large image."""
REACH = 2.0
BATCH = 32
TURNED = 20


def directions(model: Model, image: Tensor, label: Tensor, threat: ThreatModel, seed: int) -> tuple[Tensor, Tensor]:
    """FGSM's step for one image (C, H, W) without the box, and a random one of the same l2 length at right angles."""
    with frozen_eval(model):
        _, grad = gradient(model, image[None], label[None], "cross_entropy")
    first = ThreatModel(threat.norm, threat.eps, (-1e6, 1e6)).steepest_step(torch.zeros_like(grad), grad)
    generator = torch.Generator().manual_seed(seed)
    second = torch.randn(first.shape, generator=generator).to(first)
    second = second - first * (first * second).sum() / first.square().sum().clamp_min(1e-30)
    return first[0], (second * first.norm() / second.norm().clamp_min(1e-30))[0]


def between(
    model: Model, image: Tensor, label: Tensor, threat: ThreatModel, attacks: Sequence[Attack]
) -> tuple[Tensor, Tensor]:
    """Where two attacks take one image (C, H, W): the first one's perturbation, and the second's at right angles to it,
    both in full length.
    """
    goal = Untargeted(label[None])
    first, second = (attack(model, image[None], goal, threat)[0] - image for attack in attacks)
    apart = second - first * (first * second).sum() / first.square().sum().clamp_min(1e-30)
    length = torch.maximum(first.norm(), second.norm())
    return first * length / first.norm().clamp_min(1e-30), apart * length / apart.norm().clamp_min(1e-30)


def landscape(
    model: Model,
    image: Tensor,
    label: Tensor,
    planes: tuple[Tensor, Tensor],
    bounds: tuple[float, float],
    *,
    index: int = 0,
    names: tuple[str, str] = ("gradient", "random"),
    side: int = SIDE,
    reach: float = REACH,
) -> Landscape:
    """Cross-entropy and class at `side` by `side` points image + a·first + b·second, |a|, |b| <= reach, in the box."""
    ticks = torch.linspace(-reach, reach, side, dtype=image.dtype, device=image.device)
    b, a = torch.meshgrid(ticks, ticks, indexing="ij")
    weights = torch.stack([a.flatten(), b.flatten()], 1)
    values, classes = [], []
    with frozen_eval(model), torch.no_grad():
        for part in torch.split(weights, BATCH):
            points = (
                image + per_image(part[:, 0], image[None]) * planes[0] + per_image(part[:, 1], image[None]) * planes[1]
            )
            points = points.clamp(*bounds)
            logits = logits_of(model, points)
            values.append(losses_from(logits, label.expand(len(points)), "cross_entropy"))
            classes.append(logits.argmax(1))
    grid = torch.cat(values).nan_to_num().view(side, side).tolist()
    kinds = torch.cat(classes).view(side, side).tolist()
    return Landscape(
        index=index,
        first=names[0],
        second=names[1],
        reach=reach,
        loss=tuple(map(tuple, grid)),
        classes=tuple(map(tuple, kinds)),
    )


def failure(model: Model, images: Tensor, adversarials: Tensor, labels: Tensor) -> Failure:
    """What the perturbations of the images that were right and now are wrong have in common."""
    with frozen_eval(model):
        before, after = answers(model, images).argmax(1), torch.softmax(answers(model, adversarials), 1)
    confidence, into = after.max(1)
    fallen = (before == labels) & (into != labels)
    change = (adversarials - images)[fallen].abs()
    picture = change.mean((0, 1)) if bool(fallen.any()) and change.dim() == 4 else torch.zeros(1, 1)
    turned = Counter(zip(labels[fallen].tolist(), into[fallen].tolist(), strict=True)).most_common(TURNED)
    return Failure(
        where=tuple(map(tuple, picture.tolist())),
        turned=tuple((a, b, count) for (a, b), count in turned),
        confidence=float(confidence[fallen].median()) if bool(fallen.any()) else None,
        broken=int(fallen.sum()),
    )
