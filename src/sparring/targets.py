"""Which class a targeted attack should reach: one target per image, never its label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sparring.batching import laid_out, plan
from sparring.errors import InputError, unknown
from sparring.goal import Untargeted
from sparring.model import Model, device_of, frozen_eval, logits_of
from sparring.problem import check_classes, check_images
from sparring.rng import Streams, digests

CHUNK = 256
"""Images read at a time."""


class Sliceable(Protocol):
    """A tensor (N, C, H, W), or anything that gives such a tensor for a slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Tensor: ...


def least_likely(logits: Tensor, labels: Tensor) -> Tensor:
    """The class (N,) with the smallest logit that is not the label (Kurakin et al. 2017, arXiv:1611.01236).

    >>> least_likely(torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([1])).tolist()
    [2]
    """
    return logits.nan_to_num(nan=torch.inf).scatter(1, labels[:, None], torch.inf).argmin(1)


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The class (N,) with the largest logit that is not the label.

    >>> runner_up(torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([0])).tolist()
    [2]
    """
    return logits.nan_to_num(nan=-torch.inf).scatter(1, labels[:, None], -torch.inf).argmax(1)


RULES: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "least-likely": least_likely,
    "runner-up": runner_up,
    "random": None,
}
"""Name to a function of logits and labels; "random" needs no logits, only to know how many classes there are."""


def choose_targets(
    model: Model,
    images: Tensor | Sliceable,
    labels: Tensor,
    how: str = "least-likely",
    *,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int | None = None,
) -> Tensor:
    """One target per image, int64 (N,) on the CPU, for `evaluate(..., targets=...)`, `audit` or `Targeted`.

    how: "least-likely", "runner-up" (the strongest class beside the label) or "random" (any class but the label; drawn
    from `seed` and the image, so the same image always gets the same target). images: in `bounds`, read in pieces.
    Raises `InputError` for an unknown rule, for labels that do not fit, and where the model answers NaN.
    """
    if not isinstance(how, str) or how not in RULES:
        raise InputError(unknown("how", how, list(RULES)))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    labels = Untargeted(labels).labels.cpu()
    if len(labels) != len(images) or not len(labels):
        raise InputError(f"{len(labels)} labels for {len(images)} images: give one per image, and at least one")
    first = images[0:2]
    check_images(first, bounds)
    device = device_of(model, first)
    batch = plan(model, first.to(device), batch_size)
    chosen = []
    with frozen_eval(model), batch.running(), torch.no_grad():
        for start in range(0, len(labels), CHUNK):
            part = images[start : min(start + CHUNK, len(labels))]
            check_images(part, bounds)
            asked = part if RULES[how] is not None else part[:1]
            pieces = torch.split(asked.to(device), batch.batch_size)
            logits = torch.cat([logits_of(model, laid_out(x, batch.channels_last)).float().cpu() for x in pieces])
            chosen.append(_chosen(how, part, labels[start : start + CHUNK], logits, seed))
    return torch.cat(chosen)


def _chosen(how: str, images: Tensor, labels: Tensor, logits: Tensor, seed: int) -> Tensor:
    classes = logits.shape[1]
    check_classes(Untargeted(labels), classes)
    rule = RULES[how]
    if rule is None:
        streams = Streams(seed, "targets", digests(images))
        drawn = streams.integers(classes - 1, (1,), labels).squeeze(1)
        return drawn + (drawn >= labels)
    if bool(logits.isnan().any()):
        raise InputError("the model answers NaN to some images: their targets cannot be chosen by its logits")
    return rule(logits, labels)
