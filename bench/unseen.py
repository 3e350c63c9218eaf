"""Masked and honest models of `masks.py` under an audit, beside references that know where the mask is.

    python bench/unseen.py                    # all of them
    python bench/unseen.py signs dropout      # some, by name
    python bench/unseen.py --honest           # the honest ones

The reference attacks the twin: long margin and targeted attacks with several restarts, Auto-PGD, and Square on the
masked model as it is; for random models EOT attacks with other draws, judged by fresh ones. An image counts as broken
if one of them breaks it. The record is bench/results/diagnose/unseen.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import masks
import sparring as sp
from diagnose import MASKING
from sparring.attacks import EOT, PGD, MultiTargeted
from sparring.diagnosis.randomised import drawn

RECORD = Path(__file__).resolve().parent / "results" / "diagnose" / "unseen.json"
THREAT = sp.ThreatModel("linf", masks.EPS)
LONG = (
    "pgd:steps=100,loss=margin,restarts=4",
    "pgd:steps=100,restarts=2",
    "multi_targeted:steps=50,restarts=2",
    "apgd:steps=100,restarts=2",
)
EXPECTED = (
    EOT(PGD(steps=60, loss="margin"), draws=16),
    EOT(PGD(steps=60, early_stop=False), draws=16),
    EOT(PGD(steps=40, early_stop=False), draws=8),
    EOT(MultiTargeted(targets=5, steps=40), draws=16),
)


def truth(case: masks.Masked, images: Tensor, labels: Tensor, queries: int) -> float:
    """What the reference leaves."""
    if case.random:
        found = drawn(case.twin, images, labels, THREAT, attacks=EXPECTED, seed=77)
        return float(found.worst.mean())
    stand = torch.ones(len(labels), dtype=torch.bool)
    for subject, attacks in ((case.twin, LONG), (case.model, (f"square:queries={queries}",))):
        left = stand.nonzero().flatten()
        if not len(left):
            break
        found = sp.evaluate(subject, images[left], labels[left], THREAT, attacks=list(attacks), seed=3, keep=False)
        stand[left] = torch.tensor([r.broken_by is None and r.prediction == r.label for r in found.records])
    return float(stand.float().mean())


def audited(name: str, model: nn.Module, images: Tensor, labels: Tensor, eps: float, effort: str) -> dict[str, Any]:
    start = time.process_time()
    report = sp.audit(model, images, labels, sp.ThreatModel("linf", eps), effort=effort)
    return {
        "model": name,
        "clean": round(report.evaluation.clean_accuracy.value or 0, 4),
        "robust": round(report.evaluation.robust_accuracy.value or 0, 4),
        "findings": sorted(
            {f.code for f in report.findings} & MASKING
            | {f.code for f in report.findings if f.code == "probability-outputs"}
        ),
        "open": sorted({f.code for f in report.findings if f.undermines and not f.resolved}),
        "believable": report.believable,
        "seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--honest", action="store_true")
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--queries", type=int, default=5000, help="of Square, in the reference")
    parser.add_argument("--missing", action="store_true", help="only those without a row in the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    table: dict[str, Any] = masks.honest() if options.honest else masks.masked()
    kind = rows.setdefault("honest" if options.honest else "masked", {})
    images, labels = (part[: options.n] for part in masks.digits()[1])
    for name in options.names or table:
        if options.missing and name in kind:
            continue
        case = table[name]()
        row: dict[str, Any] = {"n": options.n, "effort": options.effort}
        if options.honest:
            some = case.images[: options.n], case.labels[: options.n]
            row |= audited(name, case.model, *some, case.eps, options.effort)
        else:
            row |= audited(name, case.model, images, labels, THREAT.eps, options.effort)
            row["truth"] = round(truth(case, images, labels, options.queries), 4)
            row["right"] = bool(case.right & {*row["findings"]})
        print(json.dumps(row), flush=True)
        kind[name] = row
        RECORD.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
