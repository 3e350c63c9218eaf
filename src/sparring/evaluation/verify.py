"""Adversarials made elsewhere, held to the same rules: box and budget measured, the model asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.ascent import Best
from sparring.attacks.base import Attack
from sparring.errors import InputError
from sparring.evaluation.driver import evaluate
from sparring.evaluation.evaluation import Evaluation
from sparring.evaluation.progress import Progress
from sparring.evaluation.task import Images
from sparring.model import Model
from sparring.norms import per_image
from sparring.problem import Problem
from sparring.rng import digest, digests
from sparring.threat import Threat

Made = Images | Mapping[int, Tensor]
CHUNK = 256
"""Images read at a time."""


def verify(
    model: Model,
    images: Images,
    labels: Tensor,
    threat: Threat,
    adversarials: Made,
    *,
    targets: Tensor | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    keep: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """What `adversarials`, made by whatever means, do to `model`: an evaluation with them as its only attack.

    adversarials: float, one per image in the same order and the same box, as a tensor (N, C, H, W) or anything that
    gives one for a slice; or by image index, as `Evaluation.adversarials` holds them (the rest stays as it is), say to
    try on one model what another was broken by. A candidate beyond the budget (measured in float64), outside the box or
    on pixels the mask protects counts for nothing: `evaluation.stages[0].rejected` says how many did. Where the same
    image occurs more than once, all that was made for it is tried on each of them. The other arguments are those of
    `evaluate`.

    Raises `InputError` for adversarials of another number, shape or type, or so far outside the box that they are
    surely in another unit; else what `evaluate` raises.
    """
    return evaluate(
        model,
        images,
        labels,
        threat,
        attacks=[given(images, adversarials, threat, named=out is not None)],
        targets=targets,
        batch_size=batch_size,
        out=out,
        keep=keep,
        progress=progress,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Given(Attack):
    """Looks up what was made elsewhere, by the digest of the image it was made for (`places`: digest to indices). It
    asks the model nothing, except where the same image brings several candidates.
    """

    access: ClassVar[str] = "labels"

    adversarials: Made
    places: dict[bytes, list[int]]
    name: str = "given"

    def __str__(self) -> str:
        return self.name

    def check_threat(self, threat: Threat) -> None:
        """Any will do: only its `contains` is asked."""

    def run(self, problem: Problem) -> Tensor:
        """What was made for each image; of several, the first that meets the goal, else that with the best margin."""
        places = [self.places.get(key, []) for key in digests(problem.images)]
        most = max((len(found) for found in places), default=0)
        if most <= 1:
            return self._made(places, 0, problem)
        best = Best(problem)
        rows = torch.arange(len(problem), device=problem.images.device)
        for turn in range(most):
            points = self._made(places, turn, problem)
            fits = problem.threat.contains(problem.images, points)
            logits = problem.logits(torch.where(per_image(fits, points), points, problem.images))
            values = problem.loss_values(logits, "margin").masked_fill(~fits, -torch.inf)
            best.offer(rows, points, fits & problem.goal.is_met(logits), values)
        return best.points

    def _made(self, places: list[list[int]], turn: int, problem: Problem) -> Tensor:
        """Candidate number `turn` of every image; the image itself where there is none."""
        points = problem.images.clone()
        for row, found in enumerate(places):
            if turn < len(found) and (made := _at(self.adversarials, found[turn])) is not None:
                points[row] = _checked(made, found[turn], points[row], problem.threat.bounds)
        return points


def given(images: Images, adversarials: Made, threat: Threat, *, named: bool = True) -> Given:
    """`adversarials` as an attack, once everything fits; with `named`, its name tells them from all others.

    Raises `InputError` as `verify` does.
    """
    if isinstance(adversarials, Mapping):
        strangers = [index for index in adversarials if not 0 <= index < len(images)]
        if strangers:
            raise InputError(f"there is an adversarial for image {strangers[0]}, but only {len(images)} images")
    elif not hasattr(adversarials, "__len__") or len(adversarials) != len(images):
        got = len(adversarials) if hasattr(adversarials, "__len__") else type(adversarials).__name__
        raise InputError(f"adversarials must hold one per image, in the same order: {len(images)} images, got {got}")
    places: dict[bytes, list[int]] = {}
    identity = hashlib.sha256()
    for start in range(0, len(images), CHUNK):
        for index, image in enumerate(images[start : start + CHUNK], start):
            places.setdefault(digest(image), []).append(index)
            made = _at(adversarials, index)
            if made is not None:
                identity.update(f"{index}|".encode() + digest(_checked(made, index, image, threat.bounds)))
    name = f"given:{identity.hexdigest()[:16]}" if named else "given"
    return Given(adversarials=adversarials, places=places, name=name)


def _at(adversarials: Made, index: int) -> Tensor | None:
    """That of one image (C, H, W), if there is one."""
    if isinstance(adversarials, Mapping):
        return adversarials.get(index)
    return adversarials[index : index + 1][0]


def _checked(made: Tensor, index: int, image: Tensor, bounds: tuple[float, float]) -> Tensor:
    """An adversarial in the dtype of its image; `InputError` for what no rounding explains."""
    if not isinstance(made, Tensor) or made.shape != image.shape or not made.is_floating_point():
        got = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise InputError(f"adversarial {index} must be a float tensor of shape {tuple(image.shape)}, got {got}")
    low, high = bounds
    least, most = (float(end) for end in torch.aminmax(made.detach().nan_to_num()))
    if least < 2 * low - high or most > 2 * high - low:
        raise InputError(
            f"adversarial {index} spans [{least:.4g}, {most:.4g}], the images lie in [{low:g}, {high:g}]: pass it in "
            "the unit of the images (0-255 divided by 255, normalisation undone)"
        )
    return made.detach().to(image)
