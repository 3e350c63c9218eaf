"""The threat model reads what people write, refuses the rest, and measures in float64."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers_core import NORMS, pictures

import sparring as sp
from sparring.attacks import BIM, FGSM, MIFGSM, PGD, RandomNoise, parse
from sparring.budget import parse_number
from sparring.errors import InputError

QUICK = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (1, 1.0), ("1e-3", 1e-3), ("0/255", 0.0), (0, 0.0)],
)
def test_eps_is_read(text: object, value: float) -> None:
    assert sp.ThreatModel("linf", text).eps == value


@pytest.mark.parametrize(
    "bad",
    [
        "8/0",
        "nan",
        "inf",
        "-inf",
        True,
        False,
        "abc",
        "",
        "/",
        "8/",
        "/255",
        "1/2/3",
        -1,
        "-1/255",
        None,
        [],
        math.nan,
        math.inf,
        "8/nan",
        "inf/inf",
        1e309,
        "0x10",
        b"8/255x",
        {},
        10**400,
    ],
    ids=lambda v: repr(v)[:20],
)
def test_unusable_eps_is_refused(bad: object) -> None:
    with pytest.raises(InputError, match="eps"):
        sp.ThreatModel("linf", bad)


@pytest.mark.parametrize(
    "bounds", [(1, 0), (0, 0), (0, math.nan), (0, math.inf), (0,), (0, 1, 2), None, 5, ("a", "b"), (True, 2)], ids=repr
)
def test_unusable_bounds_are_refused(bounds: object) -> None:
    with pytest.raises(InputError, match="bounds"):
        sp.ThreatModel("linf", 0.1, bounds=bounds)


@pytest.mark.parametrize("norm", ["Linf", "l3", "", None, 2, ["linf"]], ids=repr)
def test_unknown_norms_are_refused_and_the_known_ones_listed(norm: object) -> None:
    with pytest.raises(InputError, match="linf"):
        sp.ThreatModel(norm, 0.1)


@pytest.mark.parametrize("mask", [torch.ones(4, 4), [[True]], torch.ones(4, 4, dtype=torch.uint8)], ids=["f", "l", "u"])
def test_masks_must_be_boolean(mask: object) -> None:
    with pytest.raises(InputError, match="mask"):
        sp.ThreatModel("linf", 0.1, mask=mask)


def test_l0_budgets_are_whole() -> None:
    assert sp.ThreatModel("l0", 3.0).eps == 3
    for bad in (0.5, "8/255", 2.5):
        with pytest.raises(InputError, match="whole"):
            sp.ThreatModel("l0", bad)


@QUICK
@given(st.integers(1, 254))
def test_eps_is_written_back_as_a_fraction(steps: int) -> None:
    threat = sp.ThreatModel("linf", f"{steps}/255")
    assert "/255" in threat.eps_text or len(threat.eps_text) <= 5
    assert sp.ThreatModel("linf", threat.eps_text).eps == threat.eps


@QUICK
@given(st.one_of(st.text(max_size=8), st.floats(), st.integers(), st.booleans(), st.none()))
def test_a_number_is_finite_or_refused(value: object) -> None:
    with contextlib.suppress(InputError):
        assert math.isfinite(parse_number(value))


@QUICK
@given(
    st.integers(1, 500),
    st.one_of(st.none(), st.floats(0, 10, allow_subnormal=False)),
    st.integers(1, 9),
    st.sampled_from(["cross_entropy", "margin", "dlr"]),
    st.sampled_from(["constant", "linear", "cosine"]),
    st.booleans(),
)
def test_attack_specs_round_trip(
    steps: int, size: float | None, restarts: int, loss: str, schedule: str, flag: bool
) -> None:
    for attack in (
        PGD(steps=steps, step_size=size, restarts=restarts, loss=loss, schedule=schedule, early_stop=flag),
        BIM(steps=steps, step_size=size, loss=loss, early_stop=flag),
        MIFGSM(steps=steps, step_size=size, decay=size or 0.0, loss=loss, early_stop=flag),
        FGSM(loss=loss, step=size or 1.0, random_start=flag, aim="least_likely" if flag else "label"),
        RandomNoise(draws=steps),
    ):
        assert parse(str(attack)) == attack
        assert str(parse(str(attack))) == str(attack)


@pytest.mark.parametrize("norm", NORMS)
def test_contains_refuses_what_is_outside(norm: str) -> None:
    images = pictures(1, 1, 4, 4).clamp(0.3, 0.7)
    eps = {"linf": 0.1, "l2": 0.2, "l1": 0.4, "l0": 2}[norm]
    threat = sp.ThreatModel(norm, eps)
    step = torch.zeros_like(images)
    step.view(-1)[:4] = {"linf": eps, "l2": eps / 2, "l1": eps / 4, "l0": 0.0}[norm]
    if norm == "l0":
        step.view(-1)[:2] = 0.3
    assert bool(threat.contains(images, images + step))
    more = step * 1.001
    if norm == "l0":
        more.view(-1)[2] = 1e-6
    assert not bool(threat.contains(images, images + more))
    for value in (torch.nan, torch.inf, -torch.inf, 1 + 1e-6, -1e-9):
        bad = images.clone()
        bad.view(-1)[0] = value
        assert not bool(sp.ThreatModel(norm, 16).contains(images, bad)), value
    assert bool(sp.ThreatModel(norm, 0).contains(images, images))


def test_contains_checks_the_mask_exactly() -> None:
    images = pictures(2, 1, 4, 4).clamp(0.3, 0.7)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[0, 0] = False
    threat = sp.ThreatModel("linf", 0.5, mask=mask)
    moved = images.clone()
    moved[1, 0, 0, 0] = torch.nextafter(moved[1, 0, 0, 0], torch.tensor(1.0))
    assert threat.contains(images, moved).tolist() == [True, False]


@pytest.mark.parametrize("size", [64, 3 * 32 * 32, 3 * 224 * 224])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_tolerance_is_small_beside_the_budget(norm: str, size: int) -> None:
    """A budget is a promise: what rounding excuses must stay under one part in a thousand of usual budgets."""
    eps = {"linf": 1 / 255, "l2": 0.25, "l1": 12.0}[norm]
    assert sp.ThreatModel(norm, eps).tolerance(torch.zeros(1, size)) <= 2e-3 * eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_do_not_make_a_model_look_robust(dtype: torch.dtype) -> None:
    """x ± eps rounds away from the budget in half precision; candidates must not all be thrown away for it."""
    images = pictures(40, 1, 4, 4).to(dtype)
    threat = sp.ThreatModel("linf", "8/255")
    try:
        found = FGSM()(
            lambda x: torch.stack([x.float().flatten(1).sum(1), -x.float().flatten(1).sum(1)], 1),
            images,
            sp.Untargeted(torch.zeros(40).long()),
            threat,
        )
    except InputError:
        return
    assert threat.contains(images, found).double().mean() > 0.95


@pytest.mark.parametrize("bounds", [(-0.1, 1.1), (-2.1179, 2.64), (-0.4242, 2.8215), (0.1, 0.7)], ids=str)
def test_images_at_bounds_that_float32_cannot_hold_are_accepted(bounds: tuple[float, float]) -> None:
    """Bounds violated by 3e-8 must not be refused: float32(-0.1) < -0.1."""
    low, high = (torch.tensor(b) for b in bounds)
    images = pictures(6, 1, 4, 4) * (high - low) + low
    images = images.clamp(low, high)
    images[0], images[1] = low, high
    threat = sp.ThreatModel("linf", 0.05, bounds=bounds)
    found = FGSM()(
        lambda x: torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1),
        images,
        sp.Untargeted(torch.zeros(6).long()),
        threat,
    )
    assert bool(threat.contains(images, found).all())
