"""Every transform, detector, setting and stage stands on the page about defenses, with its default."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sparring.defenses.detectors import DETECTORS
from sparring.defenses.outcome import StackOutcome
from sparring.defenses.transforms import TRANSFORMS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "defenses.md").read_text(encoding="utf-8")
ROWS = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_listed(name: str) -> None:
    kind, row = TRANSFORMS[name], ROWS[name]
    for field in dataclasses.fields(kind):
        assert f"`{field.name}` {field.default:g}" in row or f"`{field.name}` {field.default}" in row, field.name
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[3] == kind.gradient
    assert (cells[4] == "yes") == kind.random


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_is_listed(name: str) -> None:
    for field in dataclasses.fields(DETECTORS[name]):
        assert f"`{field.name}`" in ROWS[name], field.name
        if isinstance(field.default, (int, float)):
            assert f"`{field.name}` {field.default:g}" in ROWS[name]


def test_the_numbers_are_explained() -> None:
    for name in ("clean", "clean_flagged", "accepted", "naive", "adaptive", "evaded", "removed", "taken_back"):
        assert name in StackOutcome.__dataclass_fields__
        assert f"`{name}`" in PAGE, name
    for name in ("coverage", "review", "detection", "latency", "plausibility"):
        assert f"`{name}`" in PAGE, name
