"""The shortest way to a hyperplane inside a box, and the ball that only shrinks, against slow references in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from tests.helpers_core import generator, pictures
from torch import Tensor

from sparring import norms

SLOW = settings(max_examples=60, deadline=None, derandomize=True, database=None)
LENGTHS = {"linf": np.inf, "l2": 2, "l1": 1}


@st.composite
def ways(draw: st.DrawFn) -> tuple[Tensor, float, str, Tensor, Tensor]:
    """A slope with ties and zeros, a gain that the box may or may not allow, and a box with closed sides."""
    norm = draw(st.sampled_from(list(LENGTHS)))
    d = draw(st.integers(1, 6))
    scale = draw(st.sampled_from([1e-3, 1.0, 1.0, 100.0]))
    slopes = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(-2, 2, width=16))
    rooms = st.one_of(st.sampled_from([0.0, 1.0, 0.3]), st.floats(0, 1, width=16))
    grad, lo, hi = ([sign * draw(kind) for _ in range(d)] for sign, kind in ((scale, slopes), (-1, rooms), (1, rooms)))
    gain = scale * draw(st.sampled_from([0.0, 1e-4, 0.1, 0.5, 1.0, 3.0, 20.0])) * draw(st.sampled_from([1, -1]))
    rows = [torch.tensor([row], dtype=torch.float64) for row in (grad, lo, hi)]
    return rows[0], gain, norm, rows[1], rows[2]


def reference(grad: np.ndarray, gain: float, norm: str, lo: np.ndarray, hi: np.ndarray) -> float:
    """Length of the shortest delta with grad·delta = gain, by a general solver; gain > 0 and within reach."""
    d = len(grad)
    if norm == "l2":
        corner = np.where(grad > 0, hi, lo)
        start = corner * gain / (grad @ corner)
        found = minimize(
            lambda x: x @ x,
            start,
            jac=lambda x: 2 * x,
            method="SLSQP",
            bounds=list(zip(lo, hi, strict=True)),
            constraints={"type": "eq", "fun": lambda x: grad @ x - gain, "jac": lambda x: grad},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return float(np.sqrt(found.fun))
    if norm == "linf":
        eye = np.eye(d)
        inequality = np.block([[eye, -np.ones((d, 1))], [-eye, -np.ones((d, 1))]])
        bounds = [*zip(lo, hi, strict=True), (0, None)]
        found = linprog(
            np.r_[np.zeros(d), 1], inequality, np.zeros(2 * d), np.r_[grad, 0][None], [gain], bounds, method="highs"
        )
    else:
        bounds = [(0, h) for h in hi] + [(0, -x) for x in lo]
        found = linprog(np.ones(2 * d), A_eq=np.r_[grad, -grad][None], b_eq=[gain], bounds=bounds, method="highs")
    assert found.status == 0
    return float(found.fun)


@SLOW
@given(ways())
def test_the_shortest_step_is_feasible_and_as_short_as_a_solver_finds(
    way: tuple[Tensor, float, str, Tensor, Tensor],
) -> None:
    grad, gain, norm, lo, hi = way
    delta = norms.shortest_step(grad, torch.tensor([gain], dtype=torch.float64), norm, lo, hi)
    assert bool((delta >= lo).all())
    assert bool((delta <= hi).all())
    slope, low, high = grad[0].numpy() * np.sign(gain or 1), lo[0].numpy(), hi[0].numpy()
    reach = float(np.where(slope > 0, slope * high, slope * low).sum())
    won = float(slope @ delta[0].numpy())
    assert won == pytest.approx(min(abs(gain), reach), rel=2e-6, abs=1e-12)
    if 0 < abs(gain) < 0.999 * reach:
        scale = np.abs(slope).max()
        best = reference(slope / scale, abs(gain) / scale, norm, low, high)
        assert np.linalg.norm(delta[0].numpy(), LENGTHS[norm]) == pytest.approx(best, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("norm", list(LENGTHS))
def test_without_a_box_the_shortest_step_is_the_gain_over_the_dual_norm(norm: str) -> None:
    grad = torch.randn(20, 50, generator=generator(1), dtype=torch.float64)
    gain = torch.linspace(-3, 3, 20, dtype=torch.float64)
    far = torch.full_like(grad, torch.inf)
    delta = norms.shortest_step(grad, gain, norm, -far, far)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    expected = np.abs(gain.numpy()) / np.linalg.norm(grad.numpy(), dual, axis=1)
    np.testing.assert_allclose(np.linalg.norm(delta.numpy(), LENGTHS[norm], axis=1), expected, rtol=1e-12)
    np.testing.assert_allclose((grad * delta).sum(1).numpy(), gain.numpy(), atol=1e-12)


@pytest.mark.parametrize("norm", list(LENGTHS))
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e30])
def test_the_shortest_step_holds_in_float32_at_any_scale(norm: str, scale: float) -> None:
    images = pictures(50, 300)
    grad = torch.randn(50, 300, generator=generator(1))
    reach = torch.where(grad > 0, grad * (1 - images), grad * -images).sum(1)
    for share in (0.01, 0.5, 0.99, 2.0):
        delta = norms.shortest_step(grad * scale, reach * scale * share, norm, -images, 1 - images)
        assert bool(delta.isfinite().all())
        won = (grad.double() * delta.double()).sum(1)
        torch.testing.assert_close(won, reach.double() * min(share, 1.0), rtol=1e-4, atol=0)
    assert not norms.shortest_step(grad * 0, reach, norm, -images, 1 - images).any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_shrinking_is_the_projection_without_a_box(norm: str) -> None:
    delta = pictures(40, 30, seed=3, dtype=torch.float64) - 0.4
    far = torch.full_like(delta, 1e6)
    radius = torch.linspace(0, 12, 40, dtype=torch.float64)
    radius = radius.round() if norm == "l0" else radius
    shrunk = norms.shrink(delta, radius, norm)
    expected = norms.project(delta, radius, norm, -far, far)
    if norm == "l0":  # equal entries may be exchanged for each other
        assert (shrunk != 0).sum(1).tolist() == (expected != 0).sum(1).tolist()
        torch.testing.assert_close((shrunk - delta).square().sum(1), (expected - delta).square().sum(1))
    else:
        torch.testing.assert_close(shrunk, expected, rtol=1e-6, atol=1e-9)
    assert bool((shrunk * (delta - shrunk) >= -1e-12).all()), "every coordinate moves towards 0, none beyond"
