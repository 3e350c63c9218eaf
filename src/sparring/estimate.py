"""Numbers with their uncertainty: a proportion, its confidence interval and the sample size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparring.errors import InputError


class Estimate(float):
    """A float that knows its confidence interval.

    Attributes: `value` (the point estimate), `low` and `high` (the interval), `n` (the sample size).
    The interval covers sampling of the images only. It says nothing about attacks that were too weak.
    """

    __slots__ = ("high", "low", "n")

    low: float
    high: float
    n: int

    def __new__(cls, value: float, low: float, high: float, n: int) -> Estimate:
        """Build an estimate from its four numbers."""
        self = super().__new__(cls, value)
        self.low, self.high, self.n = low, high, n
        return self

    def __getnewargs__(self) -> tuple[float, float, float, int]:  # type: ignore[override]
        return (self.value, self.low, self.high, self.n)

    @property
    def value(self) -> float:
        """The point estimate as a plain float."""
        return float(self)

    def __repr__(self) -> str:
        return f"Estimate({self.value:.4g}, low={self.low:.4g}, high={self.high:.4g}, n={self.n})"

    def __str__(self) -> str:
        if math.isnan(self):
            return f"unknown, n = {self.n}"
        return f"{100 * self:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}], n = {self.n}"


def proportion(successes: int, n: int, *, confidence: float = 0.95, method: str = "wilson") -> Estimate:
    """Estimate a proportion: `wilson` (Wilson 1927) or `clopper-pearson` (exact, Clopper & Pearson 1934).

    Shapes: scalars. With n = 0 the value is NaN and the interval [0, 1].
    Raises `InputError` unless 0 ≤ successes ≤ n and 0 < confidence < 1.

    >>> proportion(9, 10)
    Estimate(0.9, low=0.5958, high=0.9821, n=10)
    """
    if not 0 <= successes <= n:
        raise InputError(f"successes must lie in 0..n, got {successes} of {n}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    methods = {"wilson": "wilson", "clopper-pearson": "exact"}
    if method not in methods:
        raise InputError(f"method must be one of {', '.join(methods)}, got {method!r}")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    from scipy import stats  # costs as much to import as torch itself, so only where a number is made

    interval = stats.binomtest(successes, n).proportion_ci(confidence, method=methods[method])
    return Estimate(successes / n, float(interval.low), float(interval.high), n)


def clustered_proportion(hits: Sequence[int], trials: Sequence[int], *, confidence: float = 0.95) -> Estimate:
    """Estimate a proportion from trials that come in clusters, such as many placements on each of a few photographs.

    hits, trials: counts per cluster. Trials on one photograph resemble each other, so they count for fewer than they
    are: the interval is Clopper and Pearson's for the number of independent trials with the same variance between
    clusters (Korn & Graubard 1998). Where the clusters do not differ at all, that is the number of clusters.
    Raises `InputError` unless every cluster has 0 ≤ hits ≤ trials and at least one trial.

    >>> clustered_proportion([20, 10, 18, 4], [20, 20, 20, 20])
    Estimate(0.65, low=0.06712, high=0.9936, n=80)
    """
    if len(hits) != len(trials) or not all(0 <= h <= t and t > 0 for h, t in zip(hits, trials, strict=True)):
        raise InputError(f"every cluster needs 0 <= hits <= trials and trials > 0, got {list(hits)} of {list(trials)}")
    clusters, n = len(hits), sum(trials)
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    from scipy import stats

    value, tail = sum(hits) / n, (1 - confidence) / 2
    spread = sum((h - value * t) ** 2 for h, t in zip(hits, trials, strict=True))
    effective = float(clusters)
    if clusters > 1 and spread > 0:
        variance = clusters / (clusters - 1) * spread / n**2
        few = (stats.t.ppf(tail, n - 1) / stats.t.ppf(tail, clusters - 1)) ** 2
        effective = min(float(n), value * (1 - value) / variance * float(few))
    found, rest = value * effective, (1 - value) * effective
    low = float(stats.beta.ppf(tail, found, rest + 1)) if found > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, found + 1, rest)) if rest > 0 else 1.0
    return Estimate(value, low, high, n)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947) from the two discordant counts of paired verdicts.

    >>> round(mcnemar(1, 9), 4)
    0.0215
    """
    if min(only_first, only_second) < 0:
        raise InputError(f"counts must not be negative, got {only_first} and {only_second}")
    from scipy import stats

    n = only_first + only_second
    return 1.0 if n == 0 else float(stats.binomtest(only_first, n, 0.5).pvalue)
