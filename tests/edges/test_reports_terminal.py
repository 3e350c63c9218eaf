"""The report on terminals of every width, without colour, in encodings that know few characters."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from tests.edges import reports_factory as factory

from sparring.auditing.report import Report
from sparring.reports import terminal

MAKERS = (factory.sample, factory.bare, factory.hostile, factory.photos)


def shown(report: Report, width: int = 100, encoding: str = "utf-8", **options: object) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, newline="\n") as stream:
        terminal.render(report, Console(file=stream, width=width, **options))
        stream.flush()
        return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("make", MAKERS)
def test_no_line_is_wider_than_the_terminal(make, width: int) -> None:
    text = shown(make(), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\u2026" not in text  # nothing is cut off


@pytest.mark.parametrize("width", [60, 120])
def test_the_numbers_come_with_interval_and_n(width: int) -> None:
    text = shown(factory.sample(), width)
    assert "97.2 % [95.4, 98.3], n = 500" in text
    assert "34.8 % [30.8, 39.1], n = 500" in text


def test_it_tells_the_whole_story() -> None:
    text = " ".join(shown(factory.sample(), 200).split())
    for words in (
        factory.sample().headline,
        "Do not rely on this robust accuracy",
        "gate FAILED",
        "not attacks that were too weak",
        "linf, epsilon 16/255",
        "apgd:loss=targeted-dlr,steps=20,restarts=5",
        "CRITICAL A black-box attack broke what gradients could not",
        "Do: Look for a non-differentiable",
        "https://arxiv.org/abs/1902.06705",
        "16/255 (budget)",
        "Least robust classes (5 of 10)",
        "square:queries=500: on some: a random sample; no gradient used",
        "would break at most 4.9 points of robust accuracy more",
        "Compared with the report of 2025-10-02T11:20:00+00:00",
        "Robust accuracy 38.8 %",
        "Newly broken (25): image 100 (class 0, broken by square:queries=500), image 101",
        "and 17 more, named in the JSON report",
        "Differs: the model is another one",
    ):
        assert words in text, words


def test_a_sound_and_an_unfinished_audit_read_differently() -> None:
    sound, unfinished = shown(factory.photos()), shown(factory.bare())
    assert "Believable." in sound
    assert "gate passed" in sound
    assert "Incomplete." in unfinished
    assert "Believable." not in unfinished
    assert "unknown, n = 0" in unfinished


@pytest.mark.parametrize("colours", [False, True])
def test_text_from_the_report_is_neither_markup_nor_control_code(colours: bool) -> None:
    text = shown(factory.hostile(), 200, force_terminal=colours, no_color=not colours)
    assert "[bold red]markup[/]" in text
    assert "\x1b[31mred" not in text
    assert "\x00" not in text
    assert ("\x1b[" in text) is colours


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
@pytest.mark.parametrize("make", MAKERS)
def test_plain_encodings_get_plain_characters(make, encoding: str) -> None:
    text = shown(make(), 90, encoding)
    assert not set(text) & set("█▒·─")


def test_many_curves_are_counted_not_squeezed() -> None:
    assert "5 more attacks in the HTML and JSON reports" in shown(factory.photos(), 60)
