"""The published tables of bench/train.py, as Markdown, from the records that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train_runs import RUNS

GOODFELLOW = {
    "goodfellow-clean": "99.9 % (softmax), 89.4 % (maxout)",
    "goodfellow-mix": "17.9 % (maxout)",
    "goodfellow-pgd": "not in the paper",
}
"""Error under FGSM 0.25 that the paper reports, by kind of training."""


def tables(folder: Path) -> str:
    found = {name: json.loads(path.read_text()) for name in RUNS if (path := folder / f"{name}.json").is_file()}
    exact = {
        name: json.loads(path.read_text()) for name in found if (path := folder / f"{name}-autoattack.json").is_file()
    }
    parts = [_accuracies({n: r for n, r in found.items() if not n.startswith("goodfellow")}, exact)]
    parts += _goodfellow({n: r for n, r in found.items() if n.startswith("goodfellow")})
    cost = folder / "cost.json"
    if cost.is_file():
        parts.append(_costs(json.loads(cost.read_text())))
    return "\n\n".join(parts)


def _accuracies(found: dict[str, Any], exact: dict[str, Any]) -> str:
    rows = [
        "| run | method, epochs | clean, % | FGSM, % | standard effort, % [95 %] | AutoAttack, % | rolled back |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, record in found.items():
        card, method = record["card"], RUNS[name].method
        changes = "; ".join(change.split("then: ")[1] for change in card["changes"]) or "no"
        rows.append(
            f"| {name} | `{method}`, {card['recipe']['epochs']} | {_percent(card['after']['clean'])} "
            f"| {_percent(record['fgsm'])} | {_interval(card['after']['robust'])} | {_exact(exact.get(name))} "
            f"| {changes} |"
        )
    return "\n".join(rows)


def _exact(record: dict[str, Any] | None) -> str:
    """What AutoAttack left, with the sample where it is smaller than the other column's."""
    if record is None:
        return "not yet"
    sample = "" if record["n"] == 1000 else f" (n = {record['n']})"
    return f"{100 * record['robust'] / record['n']:.1f}{sample}"


def _goodfellow(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    rows = [
        "| training | clean error, % | FGSM error, % | error at standard effort, % | paper, FGSM error |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, record in found.items():
        after = record["card"]["after"]
        values = (after["clean"], record["fgsm"], after["robust"])
        errors = " | ".join(f"{100 * (1 - estimate['value']):.1f}" for estimate in values)
        rows.append(f"| `{RUNS[name].method}` | {errors} | {GOODFELLOW[name]} |")
    return ["\n".join(rows)]


def _costs(found: dict[str, Any]) -> str:
    pairs = list(next(iter(found.values()))["ratios"])
    rows = [f"| ratio of CPU seconds | {' | '.join(found)} |", "| --- |" + " --- |" * len(found)]
    for pair in pairs:
        cells = (f"{net['ratios'][pair]:.2f}" if pair in net["ratios"] else "" for net in found.values())
        rows.append(f"| {pair} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.1f}"


def _interval(estimate: dict[str, float]) -> str:
    return f"{_percent(estimate)} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}], n = {estimate['n']}"
