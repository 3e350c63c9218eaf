"""The report on a terminal: compact, readable without colour, at 60 to 200 columns, in any encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sparring.auditing.report import Finding, Report, Stage
from sparring.reports import numbers, wording
from sparring.reports.pen import Pen
from sparring.reports.selections import CurveGroup, curve_groups, fate, sorted_findings, undermining, worst_classes

CLASS_LIMIT = 5
CURVE_ROWS = 10
CHANGED_LIMIT = 8
_TONES = {"critical": "bold red", "warning": "yellow", "note": "cyan"}


def render(report: Report, console: Console) -> None:
    """Print the report. Text from the report is never read as markup or as control codes."""
    pen = Pen.of(console)
    blocks = (_head, _scores, _comparison, _attacker, _stages, _findings, _curves, _why, _classes)
    for position, block in enumerate(blocks):
        renderables = list(block(report, pen))
        if position and renderables:
            console.print()
        for renderable in renderables:
            console.print(renderable, highlight=False)


def _head(report: Report, pen: Pen) -> Iterator[RenderableType]:
    subject = report.subject
    yield pen.line(
        (subject.model, "bold"),
        (f" on {subject.data}, {numbers.counted(subject.images, 'image')}", ""),
        (f" ({report.effort} effort, seed {report.seed}, {numbers.duration(report.seconds)})", "dim"),
    )
    yield Text()
    yield pen.line((report.headline, "bold"))
    if not report.believable:
        codes = ", ".join(dict.fromkeys(f.code for f in undermining(report)))
        yield pen.line(
            ("Do not rely on this robust accuracy. ", "bold red"), (f"{wording.believable(report)} ({codes})", "")
        )
    elif report.complete:
        yield pen.line(("Believable. ", "bold green"), (wording.believable(report), ""))
    if not report.complete:
        yield pen.line(("Incomplete. ", "bold yellow"), (wording.incomplete(report), ""))


def _scores(report: Report, pen: Pen) -> Iterator[RenderableType]:
    evaluation = report.evaluation
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    if pen.bar_width:
        grid.add_column(no_wrap=True)
    for name, interval, tone in (
        ("clean accuracy", evaluation.clean_accuracy, ""),
        ("robust accuracy", evaluation.robust_accuracy, "bold"),
        ("attack success", evaluation.attack_success_rate, ""),
    ):
        cells = [Text(name), Text(numbers.with_n(interval), style=tone)]
        grid.add_row(*cells, *([pen.bar(interval)] if pen.bar_width else []))
    yield grid
    if report.gate is not None:
        word = ("gate passed", "bold green") if report.gate.passed else ("gate FAILED", "bold red")
        yield pen.line(word, (f"  {report.gate.reason}", ""))
    images = fate(report)
    if images is not None:
        words = wording.fates(report)
        parts = (
            f"{numbers.count(images.standing)} {words.standing}",
            f"{numbers.count(images.broken)} {words.broken}",
            f"{numbers.count(images.wrong)} {words.wrong}",
        )
        yield pen.line((f"Of {numbers.counted(images.total, 'image')}: {', '.join(parts)}.", ""))
    if report.bracket is not None:
        yield pen.line((wording.bracket(report.bracket), ""))
    missed = wording.missed(report)
    yield pen.line((wording.CAUTION + (f" {missed}" if missed else ""), "dim"))


def _comparison(report: Report, pen: Pen) -> Iterator[RenderableType]:
    compared = report.comparison
    if compared is None:
        return
    yield pen.title(f"Compared with the report of {compared.old_created}")
    yield pen.line((compared.verdict, "bold" if compared.newly_broken else ""))
    then, now = numbers.with_bounds(compared.old_robust), numbers.with_bounds(compared.new_robust)
    yield pen.line((f"Robust accuracy {then} then, {now} now. {wording.shared(compared)}", ""))
    for words, images, tone in (
        ("Newly broken", compared.newly_broken, "red"),
        ("Newly robust", compared.newly_robust, "green"),
    ):
        if images:
            named = ", ".join(wording.changed(image) for image in images[:CHANGED_LIMIT])
            left = len(images) - CHANGED_LIMIT
            more = f" and {numbers.count(left)} more, named in the JSON report" if left > 0 else ""
            yield pen.line((f"{words} ({numbers.count(len(images))}): ", tone), (f"{named}{more}.", ""))
    for difference in compared.differences:
        yield pen.line((f"Differs: {difference}", "dim"))


def _attacker(report: Report, pen: Pen) -> Iterator[RenderableType]:
    attacker = report.attacker
    yield pen.title("Attacker")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in (
        ("budget", f"{attacker.norm}, epsilon {attacker.eps_text}. {wording.budget(attacker)}"),
        ("knows", attacker.knowledge),
        ("wants", attacker.goal),
        ("spends", f"{attacker.queries}; {attacker.compute}"),
    ):
        grid.add_row(name, pen.line((value, "")))
    yield grid


def _stages(report: Report, pen: Pen) -> Iterator[RenderableType]:
    stages = report.evaluation.stages
    size = f" ({numbers.sample_size(s.robust_after for s in stages)})" if stages else ""
    yield pen.title(f"Attacks, in this order, each on what was still standing{size}")
    if not stages:
        yield pen.line(("No attack ran.", "dim"))
        return
    table = pen.table("attack", at_least=22)
    wide, wider = pen.width >= 80, pen.width >= 100
    rejected = wider and any(s.rejected for s in stages)
    heads = ["tried", "broke", "robust after"]
    heads += (["passes/image"] if wider else []) + (["time"] if wide else []) + (["rejected"] if rejected else [])
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for stage in stages:
        cells = [numbers.count(stage.tried), numbers.count(stage.broke), numbers.with_bounds(stage.robust_after)]
        if wider:
            passes = [numbers.per_image(total, stage.tried) for total in (stage.forwards, stage.backwards)]
            cells.append(" + ".join(passes))
        cells += [numbers.duration(stage.seconds)] if wide else []
        cells += [numbers.count(stage.rejected)] if rejected else []
        table.add_row(pen.attack(stage.attack), *map(Text, cells))
    yield table
    if wider:
        yield pen.line(("passes/image: forward + backward, mean over the images tried", "dim"))
    yield from _stage_notes(stages, pen)


def _stage_notes(stages: Sequence[Stage], pen: Pen) -> Iterator[RenderableType]:
    for stage in stages:
        notes = [f"on some: {stage.purpose}"] if stage.purpose else []
        notes += [*stage.notes, *([] if stage.complete else ["stopped before its end"])]
        if stage.rejected and pen.width < 100:
            notes.append(f"{numbers.counted(stage.rejected, 'candidate')} outside the budget rejected")
        if notes:
            yield pen.line((f"{stage.attack}: {'; '.join(notes)}", "dim"))


def _findings(report: Report, pen: Pen) -> Iterator[RenderableType]:
    findings = sorted_findings(report)
    if not findings:
        yield pen.line((wording.NO_FINDINGS, ""))
        return
    yield pen.title(f"Findings ({len(findings)})")
    for finding in findings:
        yield _finding(finding, pen)
        if finding is not findings[-1]:
            yield Text()


def _finding(finding: Finding, pen: Pen) -> RenderableType:
    tone = "dim" if finding.resolved else _TONES[finding.severity]
    state = " resolved" if finding.resolved else " undermines the robust accuracy" if finding.undermines else ""
    head = pen.line(
        (finding.severity.upper(), tone), (f" {finding.title}", "bold"), (f" [{finding.code}]", "dim"), (state, tone)
    )
    lines: list[RenderableType] = [
        pen.line((finding.evidence, "")),
        pen.line(("Do: ", "bold"), (finding.remedy, "")),
    ]
    lines += [pen.line((f"See {r.label} {r.url}".rstrip(), "dim")) for r in finding.references]
    return Group(head, Padding(Group(*lines), (0, 0, 0, 2)))


def _curves(report: Report, pen: Pen) -> Iterator[RenderableType]:
    for position, group in enumerate(curve_groups(report)):
        if position:
            yield Text()
        yield pen.title(f"Accuracy against epsilon ({group.norm}, {numbers.sample_size(group.intervals)})")
        yield _curve_table(group, pen)
        left = len(group.curves) - pen.curve_columns
        if left > 0:
            yield pen.line((f"{numbers.counted(left, 'more attack')} in the HTML and JSON reports.", "dim"))
    summary = wording.half_cost(report.cost) if report.cost else None
    seen = report.visibility
    for sentence in (summary, *([wording.visibility(seen), wording.survival(seen)] if seen else [])):
        if sentence:
            yield pen.line((sentence, ""))


def _why(report: Report, pen: Pen) -> Iterator[RenderableType]:
    if report.diagnosis is not None:
        yield pen.title(f"Why it falls ({numbers.counted(report.diagnosis.images, 'image')})")
        for sentence in wording.diagnosis(report.diagnosis):
            yield pen.line((sentence, ""))


def _curve_table(group: CurveGroup, pen: Pen) -> Table:
    table = pen.table("epsilon")
    for curve in group.curves[: pen.curve_columns]:
        table.add_column(pen.attack(curve.attack, 28), overflow="fold")
    rows = list(group.rows(pen.curve_columns))
    step = max(1, -(-len(rows) // CURVE_ROWS))
    for position, (eps, at_budget, intervals) in enumerate(rows):
        if position % step and not at_budget and position != len(rows) - 1:
            continue
        name = numbers.eps_text(eps, group.norm) + (" (budget)" if at_budget else "")
        table.add_row(Text(name), *map(pen.share, intervals), style="bold" if at_budget else "")
    return table


def _classes(report: Report, pen: Pen) -> Iterator[RenderableType]:
    worst = worst_classes(report, CLASS_LIMIT)
    if not worst:
        return
    yield pen.title(f"Least robust classes ({len(worst)} of {numbers.count(len(report.classes))})")
    table = pen.table("class")
    for head in ("clean", "robust"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("taken for", overflow="fold")
    for row in worst:
        values = (numbers.percent(row.clean.value), numbers.with_bounds(row.robust), numbers.count(row.robust.n))
        falls_to = "-" if row.falls_to is None else row.falls_to
        table.add_row(pen.line((row.name, "")), *map(Text, values), pen.line((falls_to, "")))
    yield table
