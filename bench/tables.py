"""The published tables, from the records in bench/results to docs/benchmarks.md.

`.bench-venv/bin/python bench/tables.py` prints those of speed and of verdicts; with `--write` they, and the arsenal's,
go into the page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parents[1] / "docs" / "benchmarks.md"
EFFORTS = ("quick", "standard", "thorough")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'---|' * len(head)}" for line in lines)


def speed() -> str:
    """Every contestant of the latest race: median CPU seconds, the ratio to the race's yardstick, robust accuracy."""
    report = json.loads(max(RESULTS.glob("speed-small-*.json")).read_text(encoding="utf-8"))
    rows = []
    for race, contestants in report["races"].items():
        yard = _yardstick(race, contestants)
        for one in contestants:
            robust = "" if one["robust_mean"] is None else f"{one['robust_mean']:.2f}"
            ratio = one["median_s"] / yard["median_s"]
            rows.append([race, one["name"], f"{one['median_s']:.3f}", f"{ratio:.2f}", robust])
    return table(("race, net", "who", "CPU s", "ratio", "robust %"), rows)


def _yardstick(race: str, contestants: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of FGSM the work that cannot be avoided; of PGD the fastest peer."""
    if race.startswith("FGSM"):
        return next(one for one in contestants if one["name"] == "bare + verifying forward")
    return min((one for one in contestants if "sparring" not in one["name"]), key=lambda one: float(one["median_s"]))


def verdict() -> str:
    """Every net with a record of AutoAttack: what stands after that and after each effort, and at what cost."""
    rows = []
    for effort in EFFORTS:
        path = RESULTS / f"verdict-{effort}.json"
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            bound = "" if row["missed_bound"] is None else f"{100 * row['missed_bound']:.1f}"
            cost = [f"1/{row[unit]['ratio']:.0f}" for unit in ("passes", "cpu_s")]
            counts = [str(row[key]) for key in ("n", "clean", "robust_aa", "robust_ours")]
            threat = f"{row['norm']} {row['eps']:g}"
            rows.append([effort, row["model"], threat, *counts, f"{row['difference']:+d}", bound, *cost])
    head = ("effort", "net", "threat", "images", "right", "AutoAttack", "ours", "difference")
    return table((*head, "spared hide at most, points", "cost in passes", "in CPU s"), rows)


def write() -> None:
    """Replace the page's tables, in their order; every other line stays."""
    import arsenal

    fresh = iter([speed(), verdict(), arsenal.markdown(arsenal.kept(arsenal.attacks()))])
    blocks = groupby(PAGE.read_text(encoding="utf-8").splitlines(), key=lambda line: line.startswith("|"))
    parts = [next(fresh) if is_table else "\n".join(lines) for is_table, lines in blocks]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        print(f"{speed()}\n\n{verdict()}")
