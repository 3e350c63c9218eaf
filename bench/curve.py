"""One curve over 32 budgets beside the evaluations it stands for: what it costs, and where it is too high.

    python bench/curve.py                        # small-pgd and small-standard, linf, 300 images
    python bench/curve.py --model small-pgd --n 1000

The curve's budgets are 0 to three times the net's own in equal steps. Three more budgets are drawn between 0.2 and 1.6
times the net's own after the curve was made; `standard` is run at each of them and at the net's own, and its accuracy
is set against `curve.at`. CPU seconds, in one process with one thread, as a ratio to `standard` at the net's budget.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

import torch

import sparring as sp
import zoo
from models import HERE

RESULTS = HERE / "results" / "curve.json"


def measured(name: str, n: int, seed: int) -> dict[str, Any]:
    net, own = zoo.load(name).requires_grad_(False), zoo.ZOO[name].budgets["linf"]
    images, labels = zoo.to_attack(name, n)
    start = time.process_time()
    curve = sp.robustness_curve(net, images, labels, norm="linf", eps=[3 * own * k / 31 for k in range(32)])
    curve_s = time.process_time() - start
    draws = random.Random(seed)
    rows = []
    for eps in (own, *sorted(own * draws.uniform(0.2, 1.6) for _ in range(3))):
        start = time.process_time()
        found = sp.evaluate(net, images, labels, sp.ThreatModel("linf", eps))
        spent = time.process_time() - start
        rows.append({"eps": eps, "curve": curve.at(eps).value, "standard": found.robust_accuracy.value, "cpu_s": spent})
    return {
        "model": name,
        "n": len(labels),
        "seed": seed,
        "curve_cpu_s": curve_s,
        "ratio": curve_s / rows[0]["cpu_s"],
        "worst_points": max(100 * (row["curve"] - row["standard"]) for row in rows[1:]),
        "budgets": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=["small-pgd", "small-standard"])
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name in options.model:
        found.append(measured(name, options.n, options.seed))
        print(
            f"{name}: curve {found[-1]['ratio']:.2f} x standard, at most {found[-1]['worst_points']:.1f} points higher"
        )
        for row in found[-1]["budgets"]:
            print(f"  eps {row['eps']:.4f}  curve {row['curve']:.3f}  standard {row['standard']:.3f}")
    RESULTS.write_text(json.dumps({"sparring": sp.__version__, "torch": torch.__version__, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
