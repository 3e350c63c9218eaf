"""Projection, steepest step and sampling: feasible, idempotent, and no worse than slow references in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from tests.helpers_core import NORMS, measured, pictures
from torch import Tensor

import sparring as sp
from sparring import norms
from sparring.rng import Streams, digests

SLOW = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, float, str, Tensor, Tensor]:
    """A row of offsets with ties, zeros, saturated coordinates and many magnitudes, in a box around 0."""
    norm = draw(st.sampled_from(NORMS))
    d = draw(st.integers(1, 7))
    scale = draw(st.sampled_from([1e-3, 1.0, 1.0, 30.0]))
    values = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5]), st.floats(-3, 3, width=32))
    delta = [scale * draw(values) for _ in range(d)]
    rooms = st.one_of(st.sampled_from([0.0, 1.0, 0.3]), st.floats(0, 1, width=32))
    lo = [-draw(rooms) for _ in range(d)]
    hi = [draw(rooms) for _ in range(d)]
    eps = draw(st.integers(0, d + 1)) if norm == "l0" else draw(st.sampled_from([0.0, 1e-3, 0.1, 0.7, 2.0, 50.0]))
    rows = (torch.tensor([row], dtype=torch.float64) for row in (delta, lo, hi))
    row, low, high = rows
    return row, float(eps), norm, low, high


def reference_projection(delta: np.ndarray, eps: float, norm: str, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    if norm == "linf":
        return np.clip(delta, np.maximum(lo, -eps), np.minimum(hi, eps))
    if norm == "l0":
        best, nearest = np.inf, np.zeros_like(delta)
        for chosen in itertools.combinations(range(len(delta)), min(int(eps), len(delta))):
            kept = np.zeros_like(delta)
            kept[list(chosen)] = np.clip(delta, lo, hi)[list(chosen)]
            far = ((kept - delta) ** 2).sum()
            if far < best:
                best, nearest = far, kept
        return nearest

    def shrunk(level: float) -> np.ndarray:
        moved = delta / (1 + level) if norm == "l2" else np.sign(delta) * np.maximum(np.abs(delta) - level, 0)
        return np.clip(moved, lo, hi)

    def size(x: np.ndarray) -> float:
        return float(np.linalg.norm(x, 2 if norm == "l2" else 1))

    if size(shrunk(0.0)) <= eps:
        return shrunk(0.0)
    low, high = 0.0, 1e3 * max(1.0, float(np.abs(delta).max())) / max(eps, 1e-20)
    for _ in range(300):
        middle = (low + high) / 2
        low, high = (middle, high) if size(shrunk(middle)) > eps else (low, middle)
    return shrunk(high)


def feasible(delta: Tensor, eps: float, norm: str, lo: Tensor, hi: Tensor, slack: float) -> bool:
    inside = bool((delta >= lo).all()) and bool((delta <= hi).all())
    return inside and measured(delta, norm).max() <= eps * (1 + slack) + slack


@SLOW
@given(problems())
def test_projection_is_feasible_idempotent_and_nearest(problem: tuple[Tensor, float, str, Tensor, Tensor]) -> None:
    delta, eps, norm, lo, hi = problem
    found = norms.project(delta, eps, norm, lo, hi)
    assert feasible(found, eps, norm, lo, hi, 1e-6)
    again = norms.project(found, eps, norm, lo, hi)
    torch.testing.assert_close(again, found, rtol=0, atol=2e-6)
    expected = reference_projection(delta[0].numpy(), eps, norm, lo[0].numpy(), hi[0].numpy())
    far, best = (np.linalg.norm(x - delta[0].numpy()) for x in (found[0].numpy(), expected))
    assert far <= best + 1e-5 * (1 + best), f"{norm} eps={eps}: {far} > {best}; {found} instead of {expected}"


@SLOW
@given(problems())
def test_projection_in_float32_agrees_with_float64(problem: tuple[Tensor, float, str, Tensor, Tensor]) -> None:
    delta, eps, norm, lo, hi = problem
    single = norms.project(delta.float(), eps, norm, lo.float(), hi.float())
    assert single.dtype == torch.float32
    assert feasible(single.double(), eps, norm, lo.float().double(), hi.float().double(), 3e-5)
    double = norms.project(delta.float().double(), eps, norm, lo.float().double(), hi.float().double())
    far, best = ((x - delta.float().double()).norm() for x in (single.double(), double))
    assert abs(far - best) <= 1e-4 * (1 + best)


@SLOW
@given(problems(), st.integers(0, 2**32 - 1))
def test_steepest_step_beats_every_random_feasible_point(
    problem: tuple[Tensor, float, str, Tensor, Tensor], seed: int
) -> None:
    grad, eps, norm, lo, hi = problem
    found = norms.steepest_step(grad, eps, norm, lo, hi)
    assert feasible(found, eps, norm, lo, hi, 1e-6)
    assert bool((found[grad == 0] == 0).all())
    drawn = torch.from_numpy(np.random.default_rng(seed).normal(size=(200, grad.shape[1])) * 2)
    others = norms.project(drawn, eps, norm, lo.expand(200, -1), hi.expand(200, -1))
    won = (grad * found).sum()
    assert bool((others * grad).sum(1).max() <= won + 1e-5 * (1 + won.abs()))


@SLOW
@given(problems())
def test_steepest_l1_step_solves_the_linear_programme(problem: tuple[Tensor, float, str, Tensor, Tensor]) -> None:
    grad, eps, _, lo, hi = problem
    found = norms.steepest_step(grad, eps, "l1", lo, hi)
    g, d = grad[0].numpy(), grad.shape[1]
    solved = linprog(
        np.r_[-g, g], A_ub=np.ones((1, 2 * d)), b_ub=[eps], bounds=[(0, h) for h in hi[0]] + [(0, -x) for x in lo[0]]
    )
    assert float((grad * found).sum()) == pytest.approx(-solved.fun, abs=1e-6 * (1 + abs(solved.fun)))


@SLOW
@given(problems())
def test_spread_step_is_finite_and_no_longer_than_asked(problem: tuple[Tensor, float, str, Tensor, Tensor]) -> None:
    grad, _, norm, _, hi = problem
    step = norms.spread_step(grad, 0.3, norm, hi, 0.05)
    assert bool(step.isfinite().all())
    assert bool((step * grad >= 0).all())
    limit = {"linf": "linf", "l2": "l2", "l1": "l1", "l0": "linf"}[norm]
    assert measured(step, limit).max() <= 0.3 * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_a_budget_per_row_is_the_same_as_row_by_row(norm: str) -> None:
    g = torch.Generator().manual_seed(4)
    delta = torch.randn(6, 9, generator=g, dtype=torch.float64)
    lo, hi = -torch.rand(6, 9, generator=g, dtype=torch.float64), torch.rand(6, 9, generator=g, dtype=torch.float64)
    eps = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 9.0], dtype=torch.float64)
    for function in (norms.project, norms.steepest_step):
        whole = function(delta, eps, norm, lo, hi)
        for i in range(6):
            one = slice(i, i + 1)
            alone = function(delta[one], float(eps[i]), norm, lo[one], hi[one])
            torch.testing.assert_close(whole[one], alone, rtol=1e-12, atol=1e-12)
            assert feasible(alone, float(eps[i]), norm, lo[one], hi[one], 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_room_and_no_budget_mean_no_move(norm: str) -> None:
    delta, zero, one = (
        torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
        torch.zeros(3, 5),
        torch.ones(3, 5),
    )
    for function in (norms.project, norms.steepest_step):
        assert bool((function(delta, 1.0, norm, zero, zero) == 0).all())
        assert bool((function(delta, 0.0, norm, -one, one) == 0).all())
        assert function(delta[:0], 1.0, norm, -one[:0], one[:0]).shape == (0, 5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_no_step_and_a_tiny_one_a_full_step(norm: str) -> None:
    for dtype in (torch.float32, torch.float64):
        box = torch.ones(1, 4, dtype=dtype)
        assert bool((norms.steepest_step(torch.zeros(1, 4, dtype=dtype), 1.0, norm, -box, box) == 0).all())
        for scale in (1e-30, 1e-12, 1e12, 1e30):
            grad = torch.tensor([[3.0, -4.0, 0.0, 1.0]], dtype=dtype) * scale
            step = norms.steepest_step(grad, 1.0, norm, -box, box)
            assert measured(step, norm)[0] == pytest.approx(1, rel=1e-5), scale


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e5, 1e8])
def test_projection_of_huge_and_tiny_rows(norm: str, scale: float) -> None:
    delta = torch.tensor([[3.0, -4.0, 0.0, 12.0]]) * scale
    box = torch.ones(1, 4) * scale * 100 if scale < 1 else torch.ones(1, 4)
    eps = 2.0 if norm == "l0" else (1.3 * min(1.0, scale))
    found = norms.project(delta, eps, norm, -box, box)
    expected = reference_projection(
        delta[0].double().numpy(), eps, norm, -box[0].double().numpy(), box[0].double().numpy()
    )
    far = np.linalg.norm(found[0].double().numpy() - delta[0].double().numpy())
    best = np.linalg.norm(expected - delta[0].double().numpy())
    assert far <= best * (1 + 1e-5)
    assert feasible(found, eps, norm, -box, box, 1e-6 * min(1.0, scale))
    assert norm == "l1" or measured(found, norm)[0] == pytest.approx(
        measured(torch.from_numpy(expected)[None], norm)[0], rel=1e-4
    )


@pytest.mark.parametrize("dims", [784, 3072])
@pytest.mark.parametrize("norm", ["l2", "l1", "l0"])
def test_projection_at_real_size_stays_within_the_verified_tolerance(norm: str, dims: int) -> None:
    images = pictures(8, dims)
    g = torch.Generator().manual_seed(1)
    for eps in (1, 8, 40):
        threat = sp.ThreatModel(norm, eps)
        for size in (0.1, 1.0, 20.0):
            wild = images + size * torch.randn(8, dims, generator=g)
            found = threat.project(images, wild)
            assert bool(threat.contains(images, found).all()), (norm, eps, size)
            assert measured(found.double() - images.double(), norm).max() <= eps * (1 + 1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (-0.1, 0.9)], ids=str)
def test_samples_are_allowed_and_fill_the_region(norm: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    images = (pictures(30, 1, 4, 4) * (high - low) + low).clamp(low, high)
    mask = torch.rand(4, 4, generator=torch.Generator().manual_seed(2)) < 0.6
    eps = {"linf": 0.1, "l2": 0.5, "l1": 1.0, "l0": 3}[norm]
    threat = sp.ThreatModel(norm, eps, bounds=bounds, mask=mask)
    streams = Streams(1, "test", digests(images))
    first, second = threat.sample(images, streams), threat.sample(images, streams)
    for drawn in (first, second):
        assert bool(threat.contains(images, drawn).all())
        assert bool(((drawn != images) <= mask).all())
    assert not torch.equal(first, second)
    spread = measured(first.double() - images.double(), norm) / eps
    assert spread.max() > 0.5
    assert len(set(spread.tolist())) > 1 or norm == "l0"


def test_uniform_ball_samples_have_the_right_radii() -> None:
    """P(‖delta‖ ≤ r·eps) = r^d in every ball, so ‖delta/eps‖^d is uniform."""
    from scipy.stats import kstest

    images = torch.arange(400).float().view(400, 1, 1).expand(400, 1, 5) / 400
    box = torch.full((400, 5), 10.0)
    for norm in ("linf", "l2", "l1"):
        drawn = norms.sample(Streams(3, norm, digests(images)), 2.0, norm, -box, box)
        ranks = (measured(drawn, norm) / 2.0) ** 5
        assert kstest(ranks, "uniform").pvalue > 0.001
        assert abs(drawn.mean()) < 0.1


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_nothing_is_drawn_for_coordinates_without_room(norm: str) -> None:
    """With k of d coordinates free the draw is uniform in the k-dimensional ball: ‖delta/eps‖^k is uniform."""
    from scipy.stats import kstest

    images = torch.arange(400).float().view(400, 1, 1).expand(400, 1, 40) / 400
    free = torch.arange(40) % 8 == 0
    box = torch.where(free, 10.0, 0.0).expand(400, 40)
    drawn = norms.sample(Streams(3, norm, digests(images)), 2.0, norm, -box, box)
    assert not bool(drawn[:, ~free].any())
    ranks = (measured(drawn, norm) / 2.0) ** int(free.sum())
    assert kstest(ranks, "uniform").pvalue > 0.001
    assert (drawn[:, free].abs().mean(0) > 0.3).all()
    assert abs(drawn[:, free].mean()) < 0.1


@SLOW
@given(problems(), st.integers(0, 3))
def test_a_sample_is_feasible_and_owes_nothing_to_its_company(
    problem: tuple[Tensor, float, str, Tensor, Tensor], stuck: int
) -> None:
    """Also where no coordinate may move, and whatever room the neighbours in the batch have."""
    _, eps, norm, lo, hi = problem
    if stuck == 0:
        lo, hi = torch.zeros_like(lo), torch.zeros_like(hi)
    images = pictures(3, 1, lo.shape[1])
    wide = torch.full_like(lo, 5.0)
    together = Streams(5, norm, digests(images)), torch.cat([-wide, lo, -wide]), torch.cat([wide, hi, 0 * wide])
    alone = Streams(5, norm, digests(images[1:2])), lo, hi
    for _ in range(2):
        drawn = norms.sample(together[0], eps, norm, *together[1:])
        assert feasible(drawn[1:2], eps, norm, lo, hi, 1e-6)
        assert torch.equal(drawn[1:2], norms.sample(alone[0], eps, norm, *alone[1:]))


def test_streams_do_not_depend_on_company() -> None:
    images = pictures(6, 1, 3, 3)
    whole = Streams(7, "x", digests(images))
    parts = [Streams(7, "x", digests(images[i : i + 1])) for i in range(6)]
    like = torch.zeros(1)
    for name in ("uniform", "normal", "exponential"):
        for _ in range(2):
            together = getattr(whole, name)((4,), like)
            assert torch.equal(together, torch.cat([getattr(part, name)((4,), like) for part in parts]))
    kept = torch.tensor([True, False, True, False, False, True])
    chosen = whole.select(kept)
    follow = chosen.uniform((3,), like)
    assert torch.equal(follow, torch.cat([parts[i].uniform((3,), like) for i in (0, 2, 5)]))
    assert len({tuple(row.tolist()) for row in whole.uniform((4,), like)}) == 6
    for other in (Streams(8, "x", digests(images)), Streams(7, "y", digests(images))):
        assert not torch.equal(other.uniform((4,), like), Streams(7, "x", digests(images)).uniform((4,), like))
