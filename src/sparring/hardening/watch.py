"""The watch: after every epoch it attacks a fixed slice of validation images and says what has gone wrong.

Catastrophic overfitting (Wong et al. 2020; Andriushchenko & Flammarion 2020): a single-step training learns to bend
the loss so that one step finds nothing, while several steps find everything. Label leaking (Kurakin et al. 2017): FGSM
images are easier than clean ones, because the step tells the label. Robust overfitting (Rice et al. 2020): robust
accuracy falls while training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from sparring.attacks import FGSM, PGD
from sparring.batching import plan
from sparring.goal import Untargeted
from sparring.hardening.craft import against_labels, input_gradient
from sparring.hardening.draws import Draws, seed_of
from sparring.hardening.history import Epoch
from sparring.hardening.method import Batch
from sparring.model import frozen_eval
from sparring.threat import ThreatModel

FALL = 0.2
"""Fall of PGD accuracy below its best, while FGSM accuracy rises, that counts as a collapse ..."""
GAP = 0.3
"""... and so does an FGSM accuracy so far above PGD accuracy, if the latter has not risen for two epochs: early in
training a gap is normal, but it closes.
"""
LEAK = 0.02
OVERFIT = 0.03
"""Fall of the robust accuracy below its best, for three epochs, that counts as robust overfitting ..."""
ERRORS = 2.0
"""... if it is so many standard errors of the slice."""
BATCH = 128


@dataclass(frozen=True)
class Sight:
    """What the watch saw: shares of the slice of `n` images, the mean cosine of neighbouring gradients, and the share
    of the commonest class, which is right without looking at a picture.
    """

    clean: float
    fgsm: float
    pgd: float
    aligned: float
    n: int
    common: float = 0.0


def look(model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Sight:
    """Clean, FGSM and PGD-10 accuracy (an image counts for PGD if it is also right as it is), gradient cosine.

    The images are always the same and so are the draws, so that epochs can be compared.
    """
    counts = torch.zeros(4, dtype=torch.float64)
    for number, (x, y) in enumerate(zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)):
        counts += _counted(model, x, y, threat, seed_of(seed, "watch", number))
    clean, fgsm, pgd, aligned = (counts / len(labels)).tolist()
    return Sight(clean, fgsm, pgd, aligned, len(labels), int(labels.bincount().max()) / len(labels))


def _counted(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    goal = Untargeted(y)
    draws = Draws(len(x), seed)

    def gradient(points: Tensor, labels: Tensor) -> Tensor:
        piece = Batch(model, model, points, labels, threat, draws)
        return input_gradient(piece, points, against_labels(piece))

    forced = FGSM()(model, x, goal, threat)
    with frozen_eval(model):
        right, fgsm = (_said(model, points) == y for points in (x, forced))
        here, there = (in_pieces_of(model, gradient, p, y) for p in (x, draws.inside(threat.around(x))))
        aligned = cosine_similarity(here.flatten(1), there.flatten(1)).double().sum()
        standing = right & fgsm
    if bool(standing.any()):
        climbed = PGD(steps=10)(model, x[standing], goal.select(standing), threat, generator=draws.generator)
        with frozen_eval(model):
            standing[standing.clone()] = _said(model, climbed) == y[standing]
    return torch.stack([right.sum(), fgsm.sum(), standing.sum(), aligned.cpu()]).double().cpu()


def _said(model: nn.Module, points: Tensor) -> Tensor:
    with torch.no_grad():
        return in_pieces_of(model, lambda part: model(part).argmax(1), points)


def in_pieces_of(model: nn.Module, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What `work` makes of the rows of `tensors`, as many at a time as the model takes without much memory."""
    rows = plan(model, tensors[0][:2]).batch_size
    return torch.cat([work(*parts) for parts in zip(*(torch.split(t, rows) for t in tensors), strict=True)])


def collapsed(seen: Sight, past: Sequence[Epoch], eps: float) -> str:
    """Why the model counts as collapsed at `eps`, or nothing. `past`: the epochs that still stand.

    While the budget grows accuracy falls by itself, so an epoch is compared with the one before and its equals. A gap
    that opens then may close again once the budget stands still, so it is not given the name of the disease.
    """
    numbers = f"FGSM {100 * seen.fgsm:.0f} %, PGD-10 {100 * seen.pgd:.0f} %"
    stuck = len(past) > 1 and seen.pgd <= min(epoch.pgd for epoch in past[-2:]) + 0.01
    if stuck and seen.fgsm - seen.pgd > GAP:
        grows = past[-1].eps < eps
        return f"{'one step falls behind ten as the budget grows' if grows else 'catastrophic overfitting'}: {numbers}"
    best = max((epoch.pgd for epoch in past if epoch.eps == eps or epoch is past[-1]), default=0.0)
    if past and best - seen.pgd > FALL and seen.fgsm >= past[-1].fgsm:
        return f"catastrophic overfitting: PGD-10 fell from {100 * best:.0f} % ({numbers})"
    return ""


def warnings(seen: Sight, past: Sequence[Epoch]) -> list[str]:
    """What announces trouble without being it."""
    said = []
    chance = seen.common + ERRORS * math.sqrt(seen.common * (1 - seen.common) / seen.n)
    if len(past) > 1 and max(seen.clean, past[-1].clean) <= chance:
        said.append(
            f"it learns nothing: {100 * seen.clean:.0f} % clean, as if it always gave one class; let the budget grow "
            "for longer (eps_warmup), change lr, or train longer"
        )
    if seen.fgsm > seen.clean + LEAK:
        said.append(f"label leaking: FGSM images are easier ({100 * seen.fgsm:.0f} %) than clean ones")
    steadiest = max((epoch.aligned for epoch in past), default=0.0)
    if steadiest > 0.2 and seen.aligned < steadiest / 2:
        said.append(f"gradients turn within the ball: cosine {seen.aligned:.2f}, once {steadiest:.2f}")
    best = max((epoch.pgd for epoch in past), default=0.0)
    lately = [epoch.pgd for epoch in past[-2:]] + [seen.pgd]
    least = max(OVERFIT, ERRORS * math.sqrt(best * (1 - best) / seen.n))
    if len(past) > 2 and all(best - accuracy > least for accuracy in lately):
        said.append(f"robust overfitting: PGD-10 accuracy was {100 * best:.0f} % before")
    return said
