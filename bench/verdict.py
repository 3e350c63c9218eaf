"""Sparring's efforts beside the recorded AutoAttack, image by image, with what both cost.

    python bench/verdict.py                                    # every net with a record, effort standard
    python bench/verdict.py --model small-pgd --n 1000 --effort thorough
    python bench/verdict.py --model small-rs --n 300 --out -   # a quick look: prints, writes nothing
    python bench/verdict.py --model small-pgd --attacks pgd:steps=10,loss=margin pgd:steps=40 --out -

The AutoAttack records are made by bench/autoattack.py and only read here. With several seeds, the one with the median
number of robust images stands for AutoAttack. Costs are given twice: CPU seconds (the record was taken at another
moment of a busy machine), and bare passes per image: the CPU seconds over those of a plain forward + backward of the
same net, measured beside each run. Every claimed adversarial is checked again in float64 and by the model.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import autoattack
import sparring as sp
import zoo
from autoattack import Counted
from models import HERE
from racing import SLACK, predict

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
TARGETS = {"quick": (1 / 120, 0.01), "standard": (1 / 25, 0.002), "thorough": (None, 0.0)}
"""Effort -> (its cost at most, as a share of AutoAttack's; how far above AutoAttack it may end)."""


# --- AutoAttack's records --------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """AutoAttack on the first `n` images of a net: the median seed, and what all seeds together broke."""

    seeds: list[int]
    robust_by_seed: list[int]
    standing: set[int]  # of the median seed
    standing_all: set[int]  # what no seed broke
    stage_of: dict[int, str]
    weights: str
    clean: int
    n: int
    cpu_s: float
    passes: float  # cpu_s in bare passes of one image, per image
    forwards: float
    backwards: float
    scaled: bool  # costs scaled down to fewer images than were recorded


def reference(model: str, norm: str, eps: float, n: int) -> Reference | None:
    found = []
    available = len(zoo.to_attack(model, n)[1])
    for path in sorted(autoattack.RESULTS.glob(f"{model}-{norm}-{eps:g}-seed*.json")):
        record = json.loads(path.read_text())
        if record["n"] >= available and record["model"] == model:
            found.append(record)
    if not found:
        return None
    n = min(n, found[0]["n"])
    left = [{i for i in record["standing"] if i < n} for record in found]
    by_robust = sorted(range(len(found)), key=lambda k: (len(left[k]), found[k]["seed"]))
    middle = by_robust[(len(found) - 1) // 2]
    record = found[middle]
    costs = stage_costs(record, n)
    stage_of = {i: stage for stage, images in record["broken"].items() for i in images}
    return Reference(
        seeds=[r["seed"] for r in found],
        robust_by_seed=[len(standing) for standing in left],
        standing=left[middle],
        standing_all=set.intersection(*left),
        stage_of=stage_of,
        weights=record["weights"],
        clean=n - sum(i < n for i in record["wrong"]),
        n=n,
        cpu_s=costs["cpu_s"],
        passes=costs["passes"] / n,
        forwards=costs["forwards"] / n,
        backwards=costs["backwards"] / n,
        scaled=n < record["n"],
    )


def stage_costs(record: dict[str, Any], n: int) -> dict[str, float]:
    """AutoAttack's costs; on fewer images than recorded each stage is scaled to those that entered it."""
    total = dict.fromkeys(("cpu_s", "passes", "forwards", "backwards"), 0.0)
    entered = set(range(record["n"])) - set(record["wrong"])
    for stage in record["stages"]:
        share = sum(i < n for i in entered) / len(entered)
        entered -= set(record["broken"][stage["name"]])
        for key in ("cpu_s", "forwards", "backwards"):
            total[key] += stage[key] * share
        total["passes"] += stage["cpu_s"] / stage["bare_pass_250"]["forward_backward_s"] * 250 * share
    return total


# --- our run ---------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One evaluation by sparring; robust and over budget as found by our own check, not as claimed."""

    standing: set[int]
    claimed: int
    clean: int
    excess: float  # of the farthest candidate, beyond eps or the box
    cpu_s: float
    bare_pass: dict[str, float]
    passes: float
    forwards: float
    backwards: float
    ledger_forwards: float
    ledger_backwards: float
    missed_bound: float | None
    stages: list[dict[str, Any]]


def run(net: nn.Module, images: Tensor, labels: Tensor, threat: sp.ThreatModel, seed: int, how: dict[str, Any]) -> Run:
    counted = Counted(net).eval()
    sp.evaluate(counted, images[:8], labels[:8], threat, **how)  # imports and first calls are not timed
    counted.forwards = counted.backwards = 0
    before = zoo.bare_pass(net, images)
    start = time.process_time()
    result = sp.evaluate(counted, images, labels, threat, seed=seed, **how)
    spent = time.process_time() - start
    after = zoo.bare_pass(net, images)
    bare = {key: (before[key] + after[key]) / 2 for key in before}
    found = result.adversarials.stack(images)
    right = (predict(net, images) == labels) & (predict(net, found) == labels)
    n = len(labels)
    return Run(
        standing=set(right.nonzero().flatten().tolist()),
        claimed=round(result.robust_accuracy.value * n),
        clean=int((predict(net, images) == labels).sum()),
        excess=excess(found, images, threat),
        cpu_s=spent,
        bare_pass=bare,
        passes=spent / bare["forward_backward_s"] * 250 / n,
        forwards=counted.forwards / n,
        backwards=counted.backwards / n,
        ledger_forwards=sum(record.forwards for record in result.records) / n,
        ledger_backwards=sum(record.backwards for record in result.records) / n,
        missed_bound=getattr(result, "missed_bound", None),
        stages=[
            {
                "attack": stage.attack,
                "tried": stage.tried,
                "broke": stage.broke,
                "forwards": stage.forwards,
                "backwards": stage.backwards,
                "seconds": round(stage.seconds, 3),
            }
            for stage in result.stages
        ],
    )


def excess(found: Tensor, images: Tensor, threat: sp.ThreatModel) -> float:
    shift = (found.double() - images.double()).flatten(1)
    distance = torch.linalg.vector_norm(shift, ORDER[threat.norm], dim=1).max()
    return max(float(distance) - threat.eps, -float(found.min()), float(found.max()) - 1)


# --- side by side ----------------------------------------------------------


def row(model: str, norm: str, eps: float, options: argparse.Namespace) -> dict[str, Any] | None:
    aa = reference(model, norm, eps, options.n)
    if aa is None:
        return None
    images, labels = zoo.to_attack(model, aa.n)
    net = zoo.load(model).requires_grad_(False)
    if zoo.digest(net) != aa.weights:
        raise SystemExit(f"{model} is not the net of its record: --force both bench/zoo.py and bench/autoattack.py")
    how = {"attacks": options.attacks} if options.attacks else {"effort": options.effort}
    ours = run(net, images, labels, sp.ThreatModel(norm, eps=eps), options.seed, how)
    missed = sorted(ours.standing - aa.standing)
    return {
        "model": model,
        "norm": norm,
        "eps": eps,
        "n": aa.n,
        "seed": options.seed,
        "effort": " ".join(options.attacks) if options.attacks else options.effort,
        "clean": ours.clean,
        "robust_ours": len(ours.standing),
        "robust_aa": len(aa.standing),
        "robust_aa_by_seed": dict(zip(aa.seeds, aa.robust_by_seed, strict=True)),
        "robust_aa_all_seeds": len(aa.standing_all),
        "difference": len(ours.standing) - len(aa.standing),
        "only_ours": sorted(aa.standing - ours.standing),
        "only_aa": {i: aa.stage_of[i] for i in missed},
        "claimed": ours.claimed,
        "excess": ours.excess,
        "missed_bound": ours.missed_bound,
        "cpu_s": {"ours": round(ours.cpu_s, 3), "aa": round(aa.cpu_s, 1), "ratio": aa.cpu_s / ours.cpu_s},
        "passes": {"ours": ours.passes, "aa": aa.passes, "ratio": aa.passes / ours.passes},
        "forwards": {"ours": ours.forwards, "aa": aa.forwards, "ledger": ours.ledger_forwards},
        "backwards": {"ours": ours.backwards, "aa": aa.backwards, "ledger": ours.ledger_backwards},
        "aa_costs_scaled": aa.scaled,
        "bare_pass_250": ours.bare_pass,
        "stages": ours.stages,
        "nice": os.nice(0),
        "versions": {"sparring": sp.__version__, "torch": torch.__version__},
    }


HEAD = (
    f"{'model':17} {'norm':4} {'eps':>4} {'n':>5} {'clean':>5} {'AA':>5} {'ours':>5} {'diff':>5} "
    f"{'+ours':>5} {'+AA':>4} "
    f"{'CPU s':>8} {'AA s':>8} {'ratio':>6} {'passes':>7} {'AA':>6} {'ratio':>6} "
    f"{'fwd':>6} {'bwd':>6} {'AA fwd':>7} {'AA bwd':>7}"
)


def line(r: dict[str, Any]) -> str:
    cpu, passes, fwd, bwd = r["cpu_s"], r["passes"], r["forwards"], r["backwards"]
    about = "~" if r["aa_costs_scaled"] else " "
    text = (
        f"{r['model']:17} {r['norm']:4} {r['eps']:4g} {r['n']:5d} {r['clean']:5d} {r['robust_aa']:5d} "
        f"{r['robust_ours']:5d} {r['difference']:+5d} {len(r['only_ours']):5d} {len(r['only_aa']):4d} "
        f"{cpu['ours']:8.2f} {cpu['aa']:8.1f}{about}{cpu['ratio']:6.1f} {passes['ours']:7.1f} {passes['aa']:6.0f}"
        f"{about}{passes['ratio']:6.1f} {fwd['ours']:6.1f} {bwd['ours']:6.1f} {fwd['aa']:7.0f} {bwd['aa']:7.0f}"
    )
    if r["claimed"] != r["robust_ours"]:
        text += f"  CLAIMS {r['claimed']}"
    if r["excess"] > SLACK:
        text += f"  BEYOND BUDGET OR BOX by {r['excess']:.1e}"
    return text


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    for r in rows:
        if r["only_aa"]:
            found = ", ".join(f"{i} ({stage})" for i, stage in r["only_aa"].items())
            said.append(f"{r['model']} {r['norm']}: only AutoAttack broke {found}")
        if len(r["robust_aa_by_seed"]) > 1:
            seeds = ", ".join(f"{seed}: {left}" for seed, left in r["robust_aa_by_seed"].items())
            together = r["robust_aa_all_seeds"]
            said.append(f"{r['model']} {r['norm']}: AutoAttack's seeds leave {seeds}; together {together}")
    return said


def judged(rows: Sequence[dict[str, Any]], effort: str) -> list[str]:
    share, above = TARGETS.get(effort, (None, 0.0))
    said = []
    for r in rows:
        allowed = above * r["n"]
        fine = r["difference"] <= allowed + 1e-9
        said.append(f"{'pass' if fine else 'FAIL'}  {r['model']}: {r['difference']:+d} images (at most {allowed:+g})")
        if share is not None and "pgd" in r["model"]:
            fine = r["passes"]["ratio"] * share >= 1
            ratios = f"1/{r['passes']['ratio']:.1f} in passes, 1/{r['cpu_s']['ratio']:.1f} in seconds"
            said.append(f"{'pass' if fine else 'FAIL'}  {r['model']}: cost {ratios} (at most 1/{1 / share:.0f})")
    return said


def save(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One file per effort; a row replaces the older one of the same net, budget, seed and number of images."""

    def key(r: dict[str, Any]) -> tuple[Any, ...]:
        return r["model"], r["norm"], r["eps"], r["n"], r["seed"], r["effort"]

    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    kept = {key(r): r for r in [*old, *rows]}
    names = list(zoo.ZOO)
    ordered = sorted(kept.values(), key=lambda r: (r["norm"], names.index(r["model"]), r["n"], r["seed"], r["effort"]))
    body = ",\n".join(f"  {json.dumps(r)}" for r in ordered)
    path.write_text(f'{{"rows": [\n{body}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=list(zoo.ZOO), default=list(zoo.ZOO), help="default: all")
    parser.add_argument("--norm", nargs="+", choices=list(ORDER), default=["linf"])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--attacks", nargs="+", help="instead of an effort: attacks as text")
    parser.add_argument("--seed", type=int, default=0, help="sparring's")
    parser.add_argument("--stages", action="store_true", help="show each of sparring's stages")
    parser.add_argument("--out", help="default: bench/results/verdict-<effort>.json; - for none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(HEAD, flush=True)
    rows = []
    for norm in options.norm:
        for model in options.model:
            made = row(model, norm, eps, options) if (eps := zoo.ZOO[model].budgets.get(norm)) else None
            if made is None:
                continue
            rows.append(made)
            print(line(made), flush=True)
            if options.stages:
                for stage in made["stages"]:
                    print(f"    {stage}")
    print("\n".join(["", *notes(rows), "", *judged(rows, "" if options.attacks else options.effort)]))
    if rows and options.out != "-":
        name = "attacks" if options.attacks else options.effort
        save(rows, Path(options.out) if options.out else HERE / "results" / f"verdict-{name}.json")


if __name__ == "__main__":
    main()
