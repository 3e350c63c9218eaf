"""What a stack costs in time, beside the bare model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sparring.defenses.outcome import Latency
from sparring.defenses.stack import Stack
from sparring.model import frozen_eval, logits_of

BATCHES = (1, 32)


def latency(stack: Stack, images: Tensor, repeats: int = 7) -> tuple[Latency, ...]:
    """Medians over calls in turn, at batch 1 and 32, after one call each to warm up."""
    found = []
    for batch in BATCHES:
        part = images[torch.arange(batch) % len(images)]

        def bare(part: Tensor = part) -> None:
            with torch.no_grad(), frozen_eval(stack.model):
                logits_of(stack.model, part)

        def whole(part: Tensor = part) -> None:
            stack(part)

        times: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats + 1):
            for call, own in zip((bare, whole), times, strict=True):
                seconds = _clock(call)
                if repeat:
                    own.append(1000 * seconds)
        found.append(Latency(batch, *(statistics.median(own) for own in times)))
    return tuple(found)


def _clock(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
