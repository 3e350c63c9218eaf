"""Numbers are written one way everywhere, and never rounded into a claim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.edges import reports_factory as factory

from sparring.auditing.report import CostCurve, CostPoint, Interval
from sparring.reports import numbers, text, wording
from sparring.reports.selections import fate, sorted_findings, undermining, worst_classes


def test_the_interval_and_the_sample_size_go_with_the_value() -> None:
    assert numbers.with_n(Interval(value=0.972, low=0.9531, high=0.984, n=1500)) == "97.2 % [95.3, 98.4], n = 1,500"
    assert numbers.with_n(Interval(value=None, low=0, high=1, n=0)) == "unknown, n = 0"


@given(st.floats(0, 1))
def test_only_none_is_zero_and_only_all_is_hundred(value: float) -> None:
    written = numbers.percent(value)
    assert (written == "0.0 %") == (value == 0)
    assert (written == "100.0 %") == (value == 1)


@pytest.mark.parametrize(("value", "written"), [(0.00049, "<0.1 %"), (0.9995, ">99.9 %"), (0.9994, "99.9 %")])
def test_what_is_nearly_nothing_or_nearly_all_says_so(value: float, written: str) -> None:
    assert numbers.percent(value) == written


def test_the_sample_size_of_many_intervals() -> None:
    assert numbers.sample_size([]) == "n = 0"
    assert numbers.sample_size([factory.share(1, 5), factory.share(2, 5)]) == "n = 5"
    assert numbers.sample_size([factory.share(1, 5), factory.share(2, 1000)]) == "n = 5 to 1,000"


def test_no_negative_zero() -> None:
    assert numbers.bounds(Interval(value=0.0, low=-0.0, high=0.1, n=5)) == "[0.0, 10.0]"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0.00 s"), (9.5, "9.50 s"), (59.7, "1 min 00 s"), (3599.7, "1 h 00 min"), (86_400, "24 h 00 min")],
)
def test_durations_carry_over(seconds: float, written: str) -> None:
    assert numbers.duration(seconds) == written


@given(st.text())
def test_printable_text_holds_no_control_characters(raw: str) -> None:
    shown = text.printable(raw)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)
    assert "\n" not in text.one_line(raw)
    assert text.printable(shown) == shown


@pytest.mark.parametrize("url", ["https://arxiv.org/abs/1802.00420", "http://localhost:8000/a?b=c#d"])
def test_web_addresses_may_be_links(url: str) -> None:
    assert text.is_link(url)


@pytest.mark.parametrize(
    "url",
    ["", "javascript:alert(1)", "data:text/html,x", "https://a/\"onclick='x'", " https://a", "//a", "https://a\n"],
)
def test_anything_else_may_not(url: str) -> None:
    assert not text.is_link(url)


def test_findings_are_sorted_by_severity_open_ones_first() -> None:
    report = factory.sample()
    assert [(f.severity, f.resolved) for f in sorted_findings(report)] == [
        ("critical", False),
        ("critical", True),
        ("warning", False),
        ("note", False),
    ]
    assert [f.code for f in undermining(report)] == ["black-box-beats-white-box"]


def test_what_is_open_comes_before_what_is_resolved_whatever_its_code() -> None:
    first, last = (
        factory.findings()[3].model_copy(update={"code": code, "resolved": resolved})
        for code, resolved in (("z", False), ("a", True))
    )
    assert sorted_findings(factory.sample(findings=(last, first))) == [first, last]


def test_the_worst_classes_come_first_and_empty_ones_last() -> None:
    empty = factory.classes(1)[0].model_copy(update={"label": 99, "robust": Interval(value=None, low=0, high=1, n=0)})
    report = factory.sample(classes=(empty, *factory.classes(10)))
    worst = worst_classes(report, 20)
    assert worst[-1] == empty
    assert [row.robust.value for row in worst[:-1]] == sorted(row.robust.value for row in worst[:-1])
    assert len(worst_classes(report, 3)) == 3


def test_the_fate_of_every_image_is_counted_once() -> None:
    counted = fate(factory.sample())
    assert counted is not None
    assert (counted.wrong, counted.broken, counted.standing, counted.total) == (14, 312, 174, 500)
    assert fate(factory.bare()) is None


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0", "{eps}{0}"])
def test_every_norm_has_words(norm: str) -> None:
    words = wording.budget(factory.attacker(norm=norm, mask="the lower {half}"))
    assert "16/255" in words
    assert "the lower {half}" in words


def test_half_of_the_cost() -> None:
    points = tuple(CostPoint(cost=c, broken=b) for c, b in ((10, 0.6), (1, 0.1), (4, 0.3)))
    assert "after 4 passes" in str(wording.half_cost(CostCurve(unit="passes", points=points)))
    assert wording.half_cost(CostCurve(unit="passes", points=())) is None
    assert wording.half_cost(CostCurve(unit="passes", points=(CostPoint(cost=1, broken=0),))) is None


def test_visibility_words_grow_stronger_with_the_change() -> None:
    seen = factory.sample().visibility
    sentences = [
        wording.visibility(seen.model_copy(update={"ssim": factory.spread(s, s, s), "psnr": factory.spread(p, p, p)}))
        for s, p in ((0.99, 45), (0.95, 33), (0.8, 25), (0.3, 12))
    ]
    assert len(set(sentences)) == 4
    assert "hard to see" in sentences[0]
    assert "at once" in sentences[-1]


def test_what_survives_a_picture_file_is_said_with_its_interval() -> None:
    seen = factory.sample().visibility
    assert "96.2 % [93.4, 97.8], n = 312" in str(wording.survival(seen))
    assert wording.survival(seen.model_copy(update={"survive_png": None})) is None
