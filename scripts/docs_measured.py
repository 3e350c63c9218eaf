"""Measured figures inside sentences: a page holds `<!-- measured: NAME -->figure<!-- end -->`, records hold the truth.

    .venv/bin/python scripts/docs_measured.py    # after new records: writes the figures into README.md and docs/

A test fails where page and record differ.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_PLACE = re.compile(r"(<!-- measured: ([\w-]+) -->)(.*?)(<!-- end -->)", re.S)


def record(name: str) -> Any:
    """One file below bench/results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def verdicts() -> list[dict[str, Any]]:
    """Every net that `standard` and AutoAttack have both attacked."""
    rows: list[dict[str, Any]] = record("verdict-standard")["rows"]
    return rows


def trained() -> list[dict[str, Any]]:
    """Those trained with PGD, and the one that is such a net with its logits scaled."""
    return [row for row in verdicts() if "pgd" in row["model"] or row["model"] == "scaled100"]


def races() -> list[dict[str, Any]]:
    """Every race of an attack of ours with another library's."""
    files = sorted((RESULTS / "arsenal").glob("*.json"))
    return [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]


def distilled() -> dict[str, Any]:
    """The row of the distilled net, what its first three stages broke among it."""
    row = next(row for row in verdicts() if row["model"] == "distilled")
    return row | {"broke": [stage["broke"] for stage in row["stages"]], "names": [s["attack"] for s in row["stages"]]}


def sticker() -> dict[str, Any]:
    """The sticker that was trained last."""
    newest = max(RESULTS.glob("sticker-*.json"))
    (one,) = json.loads(newest.read_text(encoding="utf-8"))["results"]
    return dict(one)


def _stuck(where: str) -> str:
    row = sticker()[where]
    low, high = (100 * value for value in row["interval"])
    return f"{100 * row['success']:.1f} % [{low:.1f}, {high:.1f}] of {row['places']}"


def _spread() -> str:
    shares = sticker()["trained_on"]["per_photograph"]
    return f"{100 * min(shares):.0f} to {100 * max(shares):.0f}"


def _span() -> str:
    differences = [row["difference"] for row in verdicts()]
    return f"{min(differences):+d} to {max(differences):+d}".replace("-", "−")


def _cost() -> str:
    ratios = [row["passes"]["ratio"] for row in trained()]
    return f"1/{min(ratios):.0f} to 1/{max(ratios):.0f}"


def _missed() -> str:
    return f"{sum(not row['misses'] for row in races())} of {len(races())}"


def _lab() -> str:
    """The table of the lab's answers, between line ends."""
    heads = ("model", "touched", "bare pass, s", "allowed, s", "answer, s", "its CPU s", "in time")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in record("lab")["rows"]:
        for touched in ("epsilon", "picture"):
            one = row[touched]
            seconds = " | ".join(f"{one[name]:.3f}" for name in ("bare_s", "allowed_s", "answer_s", "answer_cpu_s"))
            lines.append(f"| {row['model']} | {touched} | {seconds} | {one['within']} of {one['n']} |")
    return "\n{}\n".format("\n".join(lines))


FIGURES: dict[str, Callable[[], str]] = {
    "lab": _lab,
    "lab-load": lambda: f"{record('lab')['load']:.1f}",
    "verdict-nets": lambda: str(len(verdicts())),
    "verdict-span": _span,
    "verdict-cost": _cost,
    "races": _missed,
    "race-time": lambda: f"{statistics.median(row['time_ratio'] for row in races()):.2f}",
    "sticker-trained": lambda: _stuck("trained_on"),
    "sticker-others": lambda: _stuck("held_out"),
    "sticker-spread": _spread,
    "distilled-right": lambda: str(distilled()["clean"]),
    "distilled-fgsm": lambda: str(distilled()["broke"][0]),
    "distilled-after-fgsm": lambda: str(distilled()["clean"] - distilled()["broke"][0]),
    "distilled-margin": lambda: str(distilled()["broke"][1]),
    "distilled-standard": lambda: str(distilled()["robust_ours"]),
    "distilled-autoattack": lambda: str(distilled()["robust_aa"]),
}


def filled(page: str) -> str:
    """The page with every figure as the records have it."""
    return _PLACE.sub(lambda place: f"{place[1]}{FIGURES[place[2]]()}{place[4]}", page)


def main() -> None:
    """Write the figures into the pages."""
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
