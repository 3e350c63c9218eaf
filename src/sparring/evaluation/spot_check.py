"""What the images left out of the expensive attacks may hide: a random sample of them gets a strong one after all."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import count

from scipy.stats import hypergeom
from torch import Tensor

from sparring.attacks.base import Attack
from sparring.evaluation.evaluation import MISLED, State
from sparring.evaluation.stages import Setting, Stage, drawn, nearest

ALPHA = 0.05


def spot_check(
    state: State, setting: Setting, attacks: Sequence[Attack], deep: Sequence[Attack], left_out: Tensor, size: int
) -> Generator[Stage, None, float]:
    """Runs `attacks` on `size` random images of those `left_out` (bool, (N,)); returns the share of all images that
    they could break at most among those it did not draw.

    If one breaks an image, all also get the half of the rest with the smallest margins, and a fresh sample is drawn;
    the k-th draw has the error rate 0.05 / 2ᵏ, so that all of them together err in at most 5 % of the cases. If that
    one needs no gradients, gradients have failed, and the `deep` attacks go to all that stand.
    """
    for draw in count(1):
        left_out = left_out & state.standing()
        sample = drawn(state, left_out, size, f"spot check {draw}", setting.seed)
        population, asked = int(left_out.sum()), int(sample.sum())
        found = False
        for attack in attacks:
            before = state.standing()
            if bool((sample & before).any()):
                yield Stage(attack, sample, f"spot check {draw}")
            broken = int((sample & before & ~state.standing()).sum())
            found |= broken > 0
            if broken and attack.access != "gradients":
                state.doubt([attack], broken)
                for other in deep:
                    if bool(state.standing().any()):
                        yield Stage(other, None, MISLED)
                deep = ()
        if not found:
            break
        left_out = left_out & ~sample
        wider = nearest(state, left_out, -(-int(left_out.sum()) // 2))
        for attack in attacks:
            if bool((wider & state.standing()).any()):
                yield Stage(attack, wider, "widened")
        left_out = left_out & ~wider
    return missed(population, asked, ALPHA / 2**draw) / max(1, int(state.seen.sum()))


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
