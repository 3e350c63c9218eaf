"""Two reports side by side, image by image: what is newly broken, what is newly robust."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sparring.auditing.findings import FINDINGS
from sparring.auditing.report import Changed, Comparison, Finding, Interval, Report
from sparring.errors import InputError
from sparring.estimate import mcnemar, proportion
from sparring.evaluation import Record
from sparring.evaluation.evaluation import survived

NAMED = "named attacks"
"""What stands for the effort of an audit whose attacks were named."""
POINT = 0.01
SURE = 0.01


def compare_reports(old: Report, new: Report) -> Comparison:
    """What became of the images that both reports hold, matched by digest (the same pixels; the first with the first
    where a set holds an image twice). An image stands if the model is right about it and no attack broke it.

    Images whose label changed are counted and left out. What else differs between the two audits, such as the model,
    the budget or the attacks, is listed and does not prevent the comparison. Raises `InputError` for anything but
    two reports.
    """
    for name, report in (("old", old), ("new", new)):
        if not isinstance(report, Report):
            raise InputError(f"{name} must be a Report (load_report reads one), got {type(report).__name__}")
    pairs = _matched(old.evaluation.records, new.evaluation.records)
    same = [(before, after) for before, after in pairs if before.label == after.label]
    broken = [(before, after) for before, after in same if survived(before) and not survived(after)]
    robust = [(before, after) for before, after in same if survived(after) and not survived(before)]
    p = mcnemar(len(broken), len(robust))
    return Comparison(
        old_created=old.created,
        old_model=old.subject.model,
        old_model_digest=old.subject.model_digest,
        differences=_differences(old, new),
        images=len(same),
        only_old=len(old.evaluation.records) - len(pairs),
        only_new=len(new.evaluation.records) - len(pairs),
        relabelled=len(pairs) - len(same),
        old_robust=_share([before for before, _ in same]),
        new_robust=_share([after for _, after in same]),
        newly_broken=tuple(_changed(after, after.broken_by) for _, after in broken),
        newly_robust=tuple(_changed(after, before.broken_by) for before, after in robust),
        p_value=p,
        verdict=_verdict(len(broken), len(robust), len(same), p),
    )


def regression(comparison: Comparison) -> list[Finding]:
    """A finding where clearly more images became breakable than unbreakable."""
    lost = len(comparison.newly_broken) - len(comparison.newly_robust)
    if comparison.images == 0 or lost < POINT * comparison.images or comparison.p_value >= SURE:
        return []
    others = f" What else differs: {'; '.join(comparison.differences)}." if comparison.differences else ""
    return [FINDINGS["robustness-fell"].found(comparison.verdict + others)]


def _matched(old: Sequence[Record], new: Sequence[Record]) -> list[tuple[Record, Record]]:
    waiting: dict[str, list[Record]] = defaultdict(list)
    for record in reversed(old):
        waiting[record.digest].append(record)
    return [(waiting[record.digest].pop(), record) for record in new if waiting.get(record.digest)]


def _share(records: Sequence[Record]) -> Interval:
    return Interval.of(proportion(sum(survived(r) for r in records), len(records)))


def _changed(record: Record, broken_by: str | None) -> Changed:
    return Changed(index=record.index, digest=record.digest, label=record.label, broken_by=broken_by)


def _verdict(broken: int, robust: int, n: int, p: float) -> str:
    if n == 0:
        return "The two reports share no image, so they cannot be compared."
    points = 100 * abs(broken - robust) / n
    trend = "as high as" if broken == robust else f"{points:.1f} points {'lower' if broken > robust else 'higher'} than"
    chance = "chance alone may explain it" if p >= SURE else "more than chance explains"
    tested = "" if broken == robust == 0 else f" (McNemar p = {p:.2g}: {chance})"
    return (
        f"Of {n} shared images {broken} are newly broken and {robust} newly robust: robust accuracy is {trend} in the "
        f"baseline{tested}."
    )


def _differences(old: Report, new: Report) -> tuple[str, ...]:
    """What distinguishes the two audits besides the outcome, in words."""
    said = []
    if old.subject.model_digest != new.subject.model_digest:
        said.append("the model is another one" + _then_now(old.subject.model, new.subject.model))
    for name, before, after in (
        ("norm", old.attacker.norm, new.attacker.norm),
        ("eps", old.attacker.eps_text, new.attacker.eps_text),
        ("bounds", old.attacker.bounds, new.attacker.bounds),
        ("mask", old.attacker.mask or "none", new.attacker.mask or "none"),
        ("goal", old.attacker.goal, new.attacker.goal),
        _spent(old, new),
        ("seed", old.seed, new.seed),
        ("version of sparring", old.sparring_version, new.sparring_version),
    ):
        if before != after:
            said.append(f"{name}{_then_now(before, after)}")
    for name, report in (("baseline", old), ("new report", new)):
        if not report.complete:
            said.append(f"the {name} is of an audit that did not finish")
        elif not report.believable:
            said.append(f"the {name} holds findings that undermine its number")
    return tuple(said)


def _spent(old: Report, new: Report) -> tuple[str, str, str]:
    """The efforts, where both audits went by one (what it spends depends on the model); else the attacks."""
    if NAMED not in (old.effort, new.effort):
        return "effort", old.effort, new.effort
    return "attacks", ", ".join(old.attacker.attacks), ", ".join(new.attacker.attacks)


def _then_now(before: object, after: object) -> str:
    return "" if before == after else f": {before} then, {after} now"
