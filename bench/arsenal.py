"""Every attack beside the peers that have it: success, distance and time at no more evaluations than theirs.

    .bench-venv/bin/python bench/arsenal.py                    # about an hour; bench/run.sh makes the environment
    .bench-venv/bin/python bench/arsenal.py ddn deepfool       # these attacks only
    .bench-venv/bin/python bench/arsenal.py --markdown         # no race: the table of what bench/results/arsenal holds

A row is a duel in one process. The peer runs first with its own settings, and its questions to the model are counted;
an attack of ours that is told how much to ask gets no more, the others have at most as many steps. CPU seconds of one
thread; peer and ours take turns, and the ratio is the median of the turns' ratios. Every candidate is checked here in
float64 and scored by a fresh forward pass: fooled = right before and wrong after (or at the target), inside box and
budget. Distances are medians over the images that were right before; one that was not fooled is infinitely far.
Exit code 1 if a row that was run misses its target.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
import sparring as sp
from peers import Prepare
from racing import SEED, Contestant, clock, predict
from speed import circumstances

RESULTS = Path(__file__).resolve().parent / "results" / "arsenal"
ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}
SLACK = 1e-6
SMALL_BATCH = 64

Craft = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""(model, images, labels, seed) to candidates, where an attack's own call does not say it all."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """`theirs` prepares the peer's attack; `mine` makes ours from the passes (forwards and
    backwards) that the peer took per image.

    eps None: the nearest adversarial is looked for. norm "any": candidates need only be pictures. targeted: the goal is
    the class after the label, which the peer gets in its place. judge: the net that is to be fooled, if another.
    distance: judge the median distance too. limit: of our time, as a share of the peer's.
    """

    attack: str
    norm: str
    peer: str
    setting: str
    theirs: Prepare
    mine: Callable[[int], sp.attacks.Attack | Craft]
    eps: float | None = None
    net: str = "standard"
    judge: str | None = None
    images: int = 100
    repeats: int = 3
    batch: int | None = None
    limit: float = 1.0
    targeted: bool = False
    queries: int | None = None

    @property
    def distance(self) -> bool:
        return self.norm in ORDER and self.eps is None

    @property
    def key(self) -> str:
        return " | ".join([self.attack, self.norm, self.peer, self.setting, self.net, self.judge or ""])


@dataclass
class Side:
    """What one contestant's repeats came to."""

    seconds: list[float] = field(default_factory=list)
    forwards: list[float] = field(default_factory=list)
    backwards: list[float] = field(default_factory=list)
    fooled: list[float] = field(default_factory=list)
    median: list[float] = field(default_factory=list)
    batch: int | None = None

    def summary(self) -> dict[str, Any]:
        mean = statistics.fmean
        return {
            "seconds": [round(s, 4) for s in self.seconds],
            "forwards": round(mean(self.forwards), 1),
            "backwards": round(mean(self.backwards), 1),
            "fooled": round(mean(self.fooled), 2),
            "median": round(mean(self.median), 5) if math.isfinite(mean(self.median)) else None,
            "batch": self.batch,
        }


class Counted(nn.Module):
    """The network, and how many images went through it forwards and backwards."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        logits = self.inner(images.float())  # with numpy 2, ART's label-only attacks ask in float64
        if logits.requires_grad:
            logits.register_hook(self._passed)
        return logits

    def _passed(self, grad: Tensor) -> None:
        self.backwards += len(grad)


# --- one row ----------------------------------------------------------------


@dataclass(frozen=True)
class Arena:
    """What both sides of a row work on."""

    row: Row
    model: Counted
    judge: nn.Module
    images: Tensor
    labels: Tensor

    @property
    def answers(self) -> Tensor:
        return (self.labels + 1) % 10 if self.row.targeted else self.labels

    def turn(self, side: Side, craft: Callable[[int, int], Tensor], batch: int, seed: int) -> float:
        """One run, timed and scored; the passes per image, forwards and backwards together."""
        self.model.forwards = self.model.backwards = 0
        seconds, found = clock(Contestant("", craft), batch, seed)
        n, exact, images = len(self.images), found.detach().double(), self.images.double()
        met, far = self.scored(exact, images)
        right = predict(self.model.inner, self.images) == self.labels
        side.seconds.append(seconds)
        side.forwards.append(self.model.forwards / n)
        side.backwards.append(self.model.backwards / n)
        side.fooled.append(100 * float((met & right).sum() / right.sum()))
        side.median.append(float(torch.where(met, far, torch.inf)[right].median()))
        return side.forwards[-1] + side.backwards[-1]

    def scored(self, exact: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Which candidates (N,) meet the goal inside box and budget, and their distances (N,)."""
        answered = predict(self.judge, exact.float())
        met = answered == self.answers if self.row.targeted else answered != self.labels
        met &= ((exact >= 0) & (exact <= 1)).flatten(1).all(1)
        if self.row.norm not in ORDER:
            return met, torch.zeros(len(images), dtype=torch.float64)
        far = torch.linalg.vector_norm((exact - images).flatten(1), ORDER[self.row.norm], dim=1)
        if self.row.eps is not None:
            met &= far <= self.row.eps * (1 + SLACK) + SLACK
        return met, far

    def ours(self, asked: int, seed: int) -> Tensor:
        row, made = self.row, self.row.mine(asked)
        if not isinstance(made, sp.attacks.Attack):
            return made(self.model, self.images, self.labels, seed)
        goal = sp.Targeted(self.answers) if row.targeted else sp.Untargeted(self.labels)
        generator = torch.Generator().manual_seed(seed)
        threat = sp.ThreatModel(row.norm, row.eps or 1.0)
        call = made if row.eps is not None else made.minimize
        return call(self.model, self.images, goal, threat, generator=generator)


def race(row: Row, nets: Callable[[str], nn.Module]) -> dict[str, Any]:
    """Peer and ours in turns; the row's record."""
    images, labels = models.load_split("t10k", row.images)
    arena = Arena(row, Counted(nets(row.net)).eval(), nets(row.judge or row.net), images, labels)
    attack = row.theirs(arena.model)
    batch = row.batch or _best_batch(arena, attack)
    sides = Side(batch=batch), Side()
    for repeat in range(row.repeats):
        seed = SEED + repeat
        asked = arena.turn(sides[0], lambda b, s: attack(images, arena.answers, b), batch, seed)
        asked = row.queries or max(3, math.ceil(asked))
        arena.turn(sides[1], lambda b, s, asked=asked: arena.ours(asked, s), 0, seed)
    return _record(row, *sides)


def _best_batch(arena: Arena, attack: Callable[[Tensor, Tensor, int], Tensor]) -> int:
    """The faster of all images at once and some at a time, by one run each."""
    sizes = sorted({len(arena.images), min(SMALL_BATCH, len(arena.images))})
    if len(sizes) == 1 or arena.row.repeats == 1:
        return sizes[0]
    craft = Contestant("", lambda b, s: attack(arena.images, arena.answers, b))
    return min(sizes, key=lambda size: clock(craft, size, SEED)[0])


def _record(row: Row, theirs: Side, mine: Side) -> dict[str, Any]:
    ratio = statistics.median(a / b for a, b in zip(mine.seconds, theirs.seconds, strict=True))
    peer, ours = theirs.summary(), mine.summary()
    facts = {name: getattr(row, name) for name in ("attack", "norm", "peer", "setting", "eps", "net", "judge")}
    facts |= {"images": row.images, "repeats": row.repeats, "theirs": peer, "sparring": ours}
    facts |= {"time_ratio": round(ratio, 3), "time_limit": row.limit, "distance_ratio": None}
    misses = []
    if ours["fooled"] < peer["fooled"] - 1e-9:
        misses.append("success")
    if row.distance:
        if ours["median"] is not None and peer["median"]:
            facts["distance_ratio"] = round(ours["median"] / peer["median"], 4)
            misses += ["distance"] * (facts["distance_ratio"] > 1.02)
        else:
            misses += ["distance"] * (ours["median"] is None and peer["median"] is not None)
    if ratio > row.limit:
        misses.append("time")
    return facts | {"misses": misses}


# --- the report -------------------------------------------------------------

HEAD = ("attack", "norm", "net", "peer, its setting", "fooled %", "median", "dist.", "passes", "CPU s", "time", "")


def cells(record: dict[str, Any]) -> list[str]:
    mine, theirs = record["sparring"], record["theirs"]

    def pair(a: object, b: object) -> str:
        return f"{a} / {b}"

    def far(side: dict[str, Any]) -> str:
        return "-" if side["median"] is None else f"{side['median']:.4g}"

    def passes(side: dict[str, Any]) -> str:
        return f"{side['forwards']:.0f}+{side['backwards']:.0f}"

    net = record["net"] + (f" → {record['judge']}" if record["judge"] else "")
    budget = "" if record["eps"] is None else f" {record['eps']:g}"
    seconds = [f"{statistics.median(side['seconds']):.2f}" for side in (mine, theirs)]
    ratio = record["distance_ratio"]
    return [
        record["attack"],
        record["norm"] + budget,
        net,
        f"{record['peer']}, {record['setting']}",
        pair(f"{mine['fooled']:.1f}", f"{theirs['fooled']:.1f}"),
        pair(far(mine), far(theirs)) if record["eps"] is None and record["norm"] in ORDER else "",
        "" if ratio is None else f"{ratio:.3f}",
        pair(passes(mine), passes(theirs)),
        pair(*seconds),
        f"{record['time_ratio']:.2f}" + ("" if record["time_limit"] == 1 else f" (≤ {record['time_limit']:g})"),
        ", ".join(record["misses"]),
    ]


def show(record: dict[str, Any]) -> None:
    widths = (16, 9, 17, 40, 14, 16, 6, 18, 14, 14, 0)
    print("  ".join(cell.ljust(width) for cell, width in zip(cells(record), widths, strict=True)), flush=True)


def markdown(records: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(record))} |" for record in records)])


def keep(attack: str, records: list[dict[str, Any]]) -> None:
    """The attack's record on disk; rows run before and not now stay."""
    path = RESULTS / f"{attack}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text())["rows"] if path.is_file() else []

    def name(record: dict[str, Any]) -> tuple[object, ...]:
        return tuple(record[part] for part in ("attack", "norm", "peer", "setting", "net", "judge"))

    rows = {name(record): record for record in [*old, *records]}
    report = circumstances(argparse.Namespace()) | {"rows": list(rows.values())}
    report.pop("settings")
    path.write_text(json.dumps(report, indent=1) + "\n")


def kept(attacks: list[str]) -> list[dict[str, Any]]:
    paths = [RESULTS / f"{attack}.json" for attack in attacks]
    return [record for path in paths if path.is_file() for record in json.loads(path.read_text())["rows"]]


def all_rows() -> list[Row]:
    import arsenal_black_box
    import arsenal_budget
    import arsenal_minimal

    return [*arsenal_minimal.rows(), *arsenal_budget.rows(), *arsenal_black_box.rows()]


def attacks() -> list[str]:
    """Their names, in the order of the table."""
    return list(dict.fromkeys(row.attack for row in all_rows()))


def main() -> int:
    rows, known = all_rows(), attacks()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="attack", help=f"of {', '.join(known)}; all without")
    parser.add_argument("--only", default="", help="rows whose description holds this text")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--dry", action="store_true", help="keep no record")
    parser.add_argument("--markdown", action="store_true", help="no race: print the table of the records")
    options = parser.parse_args()
    if unknown := [attack for attack in options.attacks if attack not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    wanted = options.attacks or known
    if options.markdown:
        print(markdown(kept(wanted)))
        return 0
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # the peers' own
    nets: dict[str, nn.Module] = {}

    def net(name: str) -> nn.Module:
        if name not in nets:
            shape, _, kind = name.rpartition("-")
            nets[name] = models.cached(shape or "small", kind)
        return nets[name]

    missed = 0
    for attack in wanted:
        for row in rows:
            if row.attack != attack or options.only not in row.key:
                continue
            if options.repeats:
                row = Row(**(vars(row) | {"repeats": options.repeats}))
            try:
                record = race(row, net)
            except Exception as error:  # noqa: BLE001 - strangers' code: say what broke, go on
                print(f"{row.key}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                continue
            show(record)
            missed += bool(record["misses"])
            if not options.dry:
                keep(attack, [record])
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
