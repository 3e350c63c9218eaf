"""What the images left out of the expensive attacks may hide: a random sample of them gets a strong one after all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from scipy.stats import hypergeom
from torch import Tensor

from sparring.attacks.base import Attack
from sparring.evaluation.evaluation import State
from sparring.evaluation.stages import Setting, Stage, drawn, nearest

ALPHA = 0.05


def spot_check(state: State, setting: Setting, attack: Attack, left_out: Tensor, size: int) -> Iterator[Stage]:
    """Runs `attack` on `size` random images of those `left_out` (bool, (N,)), and sets `state.missed_bound`.

    If it breaks one, the half of the rest with the smallest margins is attacked too and a fresh sample is drawn; the
    k-th draw has the error rate 0.05 / 2ᵏ, so that all of them together err in at most 5 % of the cases.
    """
    for draw in count(1):
        left_out = left_out & state.standing()
        sample = drawn(state, left_out, size, f"spot check {draw}", setting.seed)
        population, asked = int(left_out.sum()), int(sample.sum())
        if asked:
            yield Stage(attack, sample, f"spot check {draw}")
        if not bool((sample & ~state.standing()).any()):
            state.missed_bound = missed(population, asked, ALPHA / 2**draw) / max(1, int(state.seen.sum()))
            return
        left_out = left_out & ~sample
        wider = nearest(state, left_out, -(-int(left_out.sum()) // 2))
        if bool(wider.any()):
            yield Stage(attack, wider, "widened")
        left_out = left_out & ~wider


def missed(population: int, asked: int, alpha: float) -> int:
    """The most images out of `population` that the attack could break while a sample of `asked`, drawn without
    replacement, shows none with a probability of more than `alpha` (the exact hypergeometric bound).

    >>> missed(population=1000, asked=60, alpha=0.05)
    47
    """
    low, high = 0, population - asked  # nothing found, so at least the sample holds
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.pmf(0, population, middle, asked) > alpha:
            low = middle
        else:
            high = middle - 1
    return low
