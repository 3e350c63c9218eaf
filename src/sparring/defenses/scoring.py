"""How a stack takes given points: labels, flags and scores, of a stack with randomness over fresh draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.defenses.stack import Stack
from sparring.estimate import Estimate, clustered_proportion, proportion


@dataclass(frozen=True, eq=False)
class Scored:
    """Of N points, counts over `draws` draws: answered right, flagged, accepted and right, evading, withheld; and of
    the first draw the labels, flags and scores (N, D).
    """

    draws: int
    right: Tensor
    flagged: Tensor
    accepted_right: Tensor
    evading: Tensor
    withheld: Tensor
    labels: Tensor
    flags: Tensor
    scores: Tensor


def scored(stack: Stack, points: Tensor, truth: Tensor, draws: int, seed: int) -> Scored:
    """Call the stack on `points` (N, C, H, W), `draws` times if it has randomness, each time afresh."""
    draws = draws if stack.random else 1
    generator = torch.Generator().manual_seed(seed)
    first, counts = None, torch.zeros(5, len(points), dtype=torch.int64)
    for _ in range(draws):
        decision = stack(points, generator=generator)
        first = first or decision
        right, withheld = decision.labels == truth, decision.withheld
        rows = (right, decision.flagged, right & ~withheld, ~right & ~withheld, withheld)
        counts += torch.stack([row.cpu() for row in rows])
    assert first is not None  # noqa: S101 - draws >= 1
    right, flagged, accepted, evading, withheld = counts
    facts = (first.labels.cpu(), first.flagged.cpu(), first.scores.cpu())
    return Scored(draws, right, flagged, accepted, evading, withheld, *facts)


def share(counts: Tensor | Sequence[int], draws: int) -> Estimate:
    """The mean share of draws over images; with draws, images are clusters of trials (n is the number of images)."""
    hits = [int(count) for count in counts]
    if draws == 1:
        return proportion(sum(hits), len(hits))
    if not hits:
        return proportion(0, 0)
    found = clustered_proportion(hits, [draws] * len(hits))
    return Estimate(found.value, found.low, found.high, len(hits))


def flag_rates(stack: Stack, images: Tensor) -> list[Estimate]:
    """The share of clean images that each detector flags by itself, with its interval."""
    scores = stack(images).scores
    return [
        proportion(int(fitted.flags(column).sum()), len(images))
        for fitted, column in zip(stack.detectors, scores.unbind(1), strict=True)
    ]
