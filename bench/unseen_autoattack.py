"""The original AutoAttack (version "standard") on masked models of `masks.py` and on their twins, whose gradient is led
around the mask by hand: what stands after both.

    OMP_NUM_THREADS=1 .bench-venv/bin/python bench/unseen_autoattack.py signs steep-hard-sigmoid --n 40

The record is bench/results/diagnose/unseen-autoattack.json; bench/unseen.py has what the audit says on the same images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import masks

RECORD = Path(__file__).resolve().parent / "results" / "diagnose" / "unseen-autoattack.json"


def stands(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, judge: torch.nn.Module) -> torch.Tensor:
    """Bool (N,): right before, and after AutoAttack on `model`, by the word of `judge`."""
    from pyautoattack import AutoAttack

    whole = AutoAttack(model, norm="Linf", eps=masks.EPS, version="standard", seed=0)
    with torch.no_grad():
        right = judge(images).argmax(1) == labels
    found = whole.run_standard_evaluation(images[right], labels[right], batch_size=250)
    found = found[0] if isinstance(found, tuple) else found
    inside = (found - images[right]).abs().flatten(1).amax(1) <= masks.EPS + 1e-5
    with torch.no_grad():
        right[right.clone()] = (judge(found).argmax(1) == labels[right]) | ~inside
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--n", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    images, labels = (part[: options.n] for part in masks.digits()[1])
    for name in options.names:
        case, start = masks.masked()[name](), time.process_time()
        left = stands(case.model, images, labels, case.model)
        both = left & stands(case.twin, images, labels, case.model)
        rows[name] = {
            "n": options.n,
            "masked": round(float(left.float().mean()), 4),
            "with_twin": round(float(both.float().mean()), 4),
            "seconds": round(time.process_time() - start, 1),
        }
        print(name, rows[name], flush=True)
        RECORD.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
