"""Two processes under torchrun beside one: the same records, and how much sooner.

    .venv/bin/python bench/distributed.py               # small-pgd, effort thorough, 300 images: minutes on two cores
    .venv/bin/python bench/distributed.py --images 40 --effort standard --out -    # tries the harness

One thread each. The time is that of `sparring.evaluate` between two barriers, so that start-up is left out; the
longest of the processes counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT = 0.6


def work(options: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    import sparring as sp
    import zoo

    torch.set_num_threads(1)
    net = zoo.load(options.model)
    images, labels = zoo.to_attack(options.model, options.images)
    threat = sp.ThreatModel("linf", zoo.ZOO[options.model].budgets["linf"])
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    sp.evaluate(net, images[:16], labels[:16], threat, effort="quick")  # imports and first calls are not timed
    if dist.is_initialized():
        dist.barrier()
    start = time.perf_counter()
    result = sp.evaluate(net, images, labels, threat, effort=options.effort)
    seconds = time.perf_counter() - start
    if os.environ.get("RANK", "0") == "0":
        records = [asdict(record) for record in result.records]
        options.result.write_text(json.dumps({"seconds": seconds, "records": records}))
    if dist.is_initialized():
        dist.destroy_process_group()


def launched(options: argparse.Namespace, processes: int) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        arguments = ["--model", options.model, "--images", str(options.images), "--effort", options.effort]
        command = [str(Path(__file__).resolve()), *arguments, "--result", str(result)]
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        subprocess.run([sys.executable, *(several if processes > 1 else []), *command], check=True, env=environment)
        found: dict[str, Any] = json.loads(result.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small-pgd")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--effort", default="thorough")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "distributed.json")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.result is not None:
        work(options)
        return
    one, two = launched(options, 1), launched(options, 2)
    differ = sum(a != b for a, b in zip(one["records"], two["records"], strict=True))
    ratio = two["seconds"] / one["seconds"]
    row = {
        "model": options.model,
        "effort": options.effort,
        "images": len(one["records"]),
        "one_process_s": one["seconds"],
        "two_processes_s": two["seconds"],
        "ratio": ratio,
        "records_that_differ": differ,
    }
    print(f"one process {one['seconds']:.1f} s, two {two['seconds']:.1f} s: ratio {ratio:.3f}, {differ} records differ")
    if str(options.out) != "-":
        options.out.write_text(json.dumps(row, indent=1) + "\n")
    if ratio > LIMIT or differ:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
