"""Trainings whose figures are published: robust accuracy and the watch's catches, resumable after any interruption.

    python bench/train.py fashion-pgd mnist5k-fast      # train these (all without a name) and audit them
    python bench/train.py --table                       # the tables of what is there, as Markdown

Every run leaves bench/results/train/<name>.json; an existing one is kept (--force makes a new one). A killed run goes
on where it was. The literal AutoAttack on the nets: bench/train_autoattack.py. Cost per epoch: bench/train_cost.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import sparring as sp
from sparring.hardening import Hardened, TrainingProgress, seeded
from train_runs import RUNS, Run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "train"
CACHE = HERE / ".cache" / "train"


def load(run: Run) -> tuple[Any, Any]:
    """Training and test images; `n` training images are the first of a class-balanced order."""
    train = sp.load_data(run.data, run.n, split="train", lazy=False)
    test = sp.load_data(run.data, 1000 if run.data == "mnist5k" else None, split="test", lazy=False)
    return (train.images, train.labels), (test.images[:1000], test.labels[:1000])


def trained(name: str, run: Run) -> Hardened:
    train, test = load(run)
    with seeded(run.seed):
        net = run.net()

    def tell(event: TrainingProgress) -> None:
        if event.ended:
            left = "" if event.seconds_left is None else f"{event.seconds_left:.0f} s left"
            print(f"{name} {event.epoch}/{event.epochs} PGD-10 {event.robust:.3f} {left} {event.note}", flush=True)

    return sp.harden(
        net,
        train,
        sp.ThreatModel("linf", run.eps),
        method=run.method,
        epochs=run.epochs,
        seed=run.seed,
        test=test,
        out=CACHE / name,
        progress=tell,
        **run.settings,
    )


def record(name: str, run: Run) -> dict[str, Any]:
    began, cpu = time.time(), time.process_time()
    hardened = trained(name, run)
    _, (images, labels) = load(run)
    fgsm = sp.evaluate(hardened.model, images, labels, sp.ThreatModel("linf", run.eps), attacks=["fgsm"], keep=False)
    card = hardened.card.plain()
    fgsm_found = {key: getattr(fgsm.robust_accuracy, key) for key in ("value", "low", "high", "n")}
    return {
        "name": name,
        "net": run.net.__name__,
        "train_seconds": sum(epoch.seconds for epoch in hardened.history),
        "watch_seconds": sum(epoch.watch_seconds for epoch in hardened.history),
        "this_process": {"wall_s": time.time() - began, "cpu_s": time.process_time() - cpu},
        "fgsm": fgsm_found,
        "card": card,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--force", action="store_true", help="make the record anew")
    parser.add_argument("--table", action="store_true", help="print the tables")
    options = parser.parse_args()
    if options.table:
        from train_table import tables

        print(tables(RESULTS))
        return
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.names or RUNS:
        if name not in RUNS:
            sys.exit(f"unknown run {name!r}: one of {', '.join(RUNS)}")
        path = RESULTS / f"{name}.json"
        if path.is_file() and not options.force:
            print(f"{path.name} exists")
            continue
        path.write_text(json.dumps(record(name, RUNS[name]), indent=1) + "\n")
        path.with_stem(f"{name}-autoattack").unlink(missing_ok=True)  # it was of other weights
        print(f"{path.name} written", flush=True)


if __name__ == "__main__":
    main()
