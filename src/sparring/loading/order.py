"""Fixed, class-balanced orders: every prefix holds the classes in nearly their share of the whole."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparring.errors import InputError


def balanced_order(labels: Tensor, seed: int) -> Tensor:
    """A permutation (N,) drawn from `seed` whose every prefix is class-balanced.

    Within a class the images are shuffled and spread evenly, with jitter, over the whole length. The draws come
    from NumPy's legacy generator, whose stream is frozen for good: the order is the same in every release.
    Raises `InputError` for a seed outside 0 .. 2^32 - 1.

    >>> balanced_order(torch.tensor([0, 0, 1, 1]), seed=0)[:2].tolist()
    [2, 1]
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    draws = np.random.RandomState(seed)
    classes = labels.numpy()
    place = np.empty(len(classes))
    for label in np.unique(classes):
        rows = draws.permutation(np.flatnonzero(classes == label))
        place[rows] = (np.arange(len(rows)) + draws.random_sample(len(rows))) / len(rows)
    return torch.from_numpy(np.argsort(place, kind="stable"))


def first_balanced(labels: Tensor, n: int | None, seed: int) -> Tensor:
    """Rows to take: all in their stored order for n = None, else the first n of the balanced order.

    Raises `InputError` unless 1 <= n <= N.
    """
    order = balanced_order(labels, seed)
    if n is None:
        return torch.arange(len(labels))
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(labels):
        raise InputError(f"n must be a whole number from 1 to {len(labels)} (the size of the set) or None, got {n!r}")
    return order[:n]
