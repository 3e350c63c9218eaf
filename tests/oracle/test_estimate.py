"""Intervals and tests against hand formulas."""

from __future__ import annotations

import copy
import math
import pickle
from math import comb

import pytest
from scipy.stats import beta, norm

from sparring.errors import InputError
from sparring.estimate import Estimate, mcnemar, proportion

COUNTS = [(0, 1), (1, 1), (0, 10), (1, 10), (9, 10), (10, 10), (50, 100), (333, 1000), (10_000, 10_000)]


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("k", "n"), COUNTS)
def test_wilson(k: int, n: int, confidence: float) -> None:
    z = norm.ppf(0.5 + confidence / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = proportion(k, n, confidence=confidence)
    assert (found.value, found.n) == (p, n)
    assert found.low == pytest.approx(max(0, centre - half), abs=1e-12)
    assert found.high == pytest.approx(min(1, centre + half), abs=1e-12)
    assert 0 <= found.low <= found <= found.high <= 1


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("k", "n"), COUNTS)
def test_clopper_pearson(k: int, n: int, confidence: float) -> None:
    a = (1 - confidence) / 2
    found = proportion(k, n, confidence=confidence, method="clopper-pearson")
    assert found.low == pytest.approx(0 if k == 0 else beta.ppf(a, k, n - k + 1), abs=1e-9)
    assert found.high == pytest.approx(1 if k == n else beta.ppf(1 - a, k + 1, n - k), abs=1e-9)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (1, 9), (9, 1), (5, 5), (0, 20), (30, 50)])
def test_mcnemar_is_the_doubled_binomial_tail(b: int, c: int) -> None:
    n = b + c
    tail = sum(comb(n, i) for i in range(min(b, c) + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(b, c) == mcnemar(c, b)


def test_nothing_seen_means_nothing_known() -> None:
    empty = proportion(0, 0)
    assert math.isnan(empty)
    assert (empty.low, empty.high, empty.n) == (0.0, 1.0, 0)
    assert "unknown" in str(empty)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(InputError):
        proportion(k, n)
    with pytest.raises(InputError):
        mcnemar(-1, 3)


@pytest.mark.parametrize("confidence", [0, 1, 1.5, math.nan])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match="confidence"):
        proportion(1, 2, confidence=confidence)
    with pytest.raises(InputError, match="method"):
        proportion(1, 2, method="wald")


def test_an_estimate_is_a_float_that_survives_copies() -> None:
    found = proportion(9, 10)
    for same in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert isinstance(same, Estimate)
        assert (same.value, same.low, same.high, same.n) == (found.value, found.low, found.high, found.n)
    assert found > 0.8
    assert str(found).replace(" ", "") == "90.0%[59.6,98.2],n=10"
