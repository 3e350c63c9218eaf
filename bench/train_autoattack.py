"""The original AutoAttack on a net of bench/train.py, recorded as bench/autoattack.py records the zoo's.

    OMP_NUM_THREADS=1 .bench-venv/bin/python bench/train_autoattack.py fashion-pgd mnist5k-fast

Writes bench/results/train/<name>-autoattack.json; an existing record is kept.
"""

from __future__ import annotations

import argparse

import torch
from safetensors.torch import load_file
from torch import nn

import autoattack
import zoo
from models import HERE
from train_runs import RUNS

RESULTS = HERE / "results" / "train"
DATA = {"fashion-mnist": "fashion", "mnist5k": "mnist5k"}


def load(name: str) -> nn.Module:
    net = RUNS[name].net()
    net.load_state_dict(load_file(zoo.CACHE / "train" / name / "model.safetensors"))
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(RUNS))
    parser.add_argument("--n", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        path = RESULTS / f"{name}-autoattack.json"
        if path.is_file():
            print(f"{path.name} exists")
            continue
        run = RUNS[name]
        zoo.ZOO[name] = zoo.Kind(DATA[run.data], {"linf": run.eps}, run.net, source=lambda name=name: load(name))
        record = autoattack.attack(name, "linf", run.eps, options.n, 0, f"train-{name}")
        path.write_text(autoattack.written(record))
        print(f"{path.name}: {record['clean']} right, {record['robust']} robust, {record['cpu_s']} CPU s", flush=True)


if __name__ == "__main__":
    main()
