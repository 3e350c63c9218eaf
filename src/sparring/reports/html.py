"""The report as one self-contained HTML page: no script, no network, light and dark, phone to paper."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sparring.auditing.report import CostCurve, Interval, Picture, Report
from sparring.reports import numbers, plots, selections, wording
from sparring.reports.pictures import Shot, shot
from sparring.reports.text import is_link, one_line, printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

Sections = list[tuple[str, list[tuple[str, str]]]]
CLASS_LIMIT = 20
COST_ROWS = 8
CHANGED_LIMIT = 20
_UNITS = re.compile(r"(?<=\d) (?=%)|(?<=\bn) (?== \d)|(?<=\bn =) (?=\d)")


def render(report: Report) -> str:
    """The page as text. Equal reports give equal pages.

    Names and paths in the report are untrusted: they are escaped, and only http(s) references become links.
    """
    page = _environment().get_template("report.html.j2")
    return page.render(
        report=report,
        findings=selections.sorted_findings(report),
        undermining=selections.undermining(report),
        fate=selections.fate(report),
        charts=[_curve_chart(group, f"curve{i}") for i, group in enumerate(selections.curve_groups(report))],
        bracket=_bracket(report),
        diagnosis=_diagnosis(report),
        fates=wording.fates(report),
        changed_limit=CHANGED_LIMIT,
        cost=_cost(report.cost),
        gallery=[_frame(p) for p in report.pictures],
        worst=selections.worst_classes(report, CLASS_LIMIT),
    )


@dataclass(frozen=True)
class CurveChart:
    """The curves of one norm: the plot, and the same numbers as rows (epsilon, is it the budget, cells)."""

    norm: str
    sample_size: str
    plot: plots.Plot
    rows: tuple[tuple[str, bool, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class CostChart:
    """Success against cost: the plot, and some of its points as rows."""

    plot: plots.Plot
    rows: tuple[tuple[str, str], ...]
    summary: str | None


@dataclass(frozen=True)
class Frame:
    """A picture of the report with its three decoded shots (None where one is not a PNG)."""

    picture: Picture
    shots: tuple[tuple[str, Shot | None], ...]


def _environment() -> Environment:
    import jinja2
    from markupsafe import Markup

    def finalize(value: object) -> object:
        return _typeset(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparring.reports", "templates"),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"numbers": numbers, "wording": wording, "is_link": is_link, "when": _when}
    environment.filters |= {"line": one_line, "spec": _breakable, "svg": Markup, "verbatim": _verbatim}
    return environment


def _typeset(text: str) -> str:
    """Harmless, and a number stays on one line with its unit."""
    return _UNITS.sub("\N{NO-BREAK SPACE}", printable(text))


def _verbatim(text: str) -> Markup:
    """Escaped and harmless, every blank as it stands: for text that is copied."""
    from markupsafe import escape

    return escape(printable(text))


def _breakable(spec: str) -> Markup:
    """An attack's long name, escaped, which may break after its commas and colons."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[,:])(?=\S)", _typeset(one_line(spec)))
    return Markup("<wbr>").join(escape(part) for part in parts)


def _curve_chart(group: selections.CurveGroup, key: str) -> CurveChart:
    plot = plots.curve_plot(group.curves, key=key, budget=group.budget)
    rows = tuple((numbers.eps_text(eps, group.norm), at, tuple(map(_cell, cells))) for eps, at, cells in group.rows())
    return CurveChart(group.norm, numbers.sample_size(group.intervals), plot, rows)


def _diagnosis(report: Report) -> tuple[Sections, list[tuple[int, str]]]:
    """Tables of the diagnosis, and the loss along FGSM's direction of an image."""
    from sparring.reports import diagnosis  # its own page takes the environment from here
    from sparring.reports.diagnosis_plots import line_plot

    if report.diagnosis is None:
        return [], []
    lines = report.diagnosis.first_order.lines[:1]
    tables = [section for section in diagnosis.sections(report.diagnosis) if section[1]]
    return tables, [(line.index, line_plot(line, "diagnosis")) for line in lines]


def _bracket(report: Report) -> CurveChart | None:
    """What is proved and what attacks left, over epsilon: the lowest of the audit's curves."""
    found, attacked = report.bracket, [c for c in report.curves if len(c.points) > 1]
    if found is None or found.curve is None or found.lower is None or len(found.curve.points) < 2:
        return None
    lowest = sorted(attacked, key=lambda c: sum(p.accuracy.value or 0.0 for p in c.points))[:1]
    return _curve_chart(selections.CurveGroup(found.curve.norm, report.attacker.eps, (found.curve, *lowest)), "bracket")


def _cell(interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return "-", ""
    return numbers.percent(interval.value), "" if interval.value is None else numbers.bounds(interval)


def _cost(cost: CostCurve | None) -> CostChart | None:
    if cost is None or not cost.points:
        return None
    points = sorted(cost.points, key=lambda p: p.cost)
    step = (len(points) - 1) / (COST_ROWS - 1)
    few = points if len(points) <= COST_ROWS else [points[round(i * step)] for i in range(COST_ROWS)]
    rows = tuple((numbers.significant(p.cost), numbers.percent(p.broken)) for p in few)
    return CostChart(plots.cost_plot(cost, key="cost"), rows, wording.half_cost(cost))


def _frame(picture: Picture) -> Frame:
    return Frame(
        picture,
        (
            ("clean", shot(picture.clean_png)),
            ("adversarial", shot(picture.adversarial_png)),
            ("perturbation", shot(picture.perturbation_png)),
        ),
    )


def _when(created: str) -> str:
    """The moment of creation for people; as it stands where it is no ISO date."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    if moment.tzinfo is None:
        return moment.strftime("%Y-%m-%d %H:%M")
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
