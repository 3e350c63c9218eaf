"""The original AutoAttack (Croce & Hein 2020, version "standard") on one net of the zoo, recorded image by image.

    python bench/autoattack.py small-pgd                       # linf at the net's own budget, 1,000 images, seed 0
    python bench/autoattack.py mnist5k-pgd --norm l2 --seed 1

The record, bench/results/autoattack/<model>-<norm>-<eps>-seed<k>.json, says for each stage which images broke, its
CPU seconds and the images it sent forward and backward. An existing record is kept (--force makes a new one).
Run it in the bench's environment with one thread: OMP_NUM_THREADS=1 .bench-venv/bin/python bench/autoattack.py ...
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from models import HERE
from racing import predict

RESULTS = HERE / "results" / "autoattack"
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
BATCH = 250  # AutoAttack's default


def record_path(model: str, norm: str, eps: float, seed: int, n: int | None = None) -> Path:
    """`n` only where it is not the usual number of images."""
    return RESULTS / f"{model}-{norm}-{eps:g}-seed{seed}{f'-n{n}' if n else ''}.json"


class Counted(nn.Module):
    """A net that counts the images sent through it, forward and backward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self.went_back)
        return logits

    def went_back(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@dataclass
class Stage:
    name: str
    entered: list[int]  # the images that stood before it, in its order
    broken: list[int] = field(default_factory=list)
    seen: int = 0
    cpu_s: float = 0.0
    forwards: int = 0
    backwards: int = 0
    excess: float = -1.0  # the largest distance beyond eps, in float64
    bare_pass: dict[str, float] = field(default_factory=dict)


class Watch:
    """Stands between AutoAttack and its four attacks: times every batch and notes which images it broke."""

    def __init__(self, net: Counted, images: Tensor, labels: Tensor, norm: str, eps: float) -> None:
        self.net, self.images, self.labels, self.norm, self.eps = net, images, labels, norm, eps
        clean = predict(net.net, images) == labels
        self.wrong = (~clean).nonzero().flatten().tolist()
        self.standing: list[int] = clean.nonzero().flatten().tolist()
        self.stages: list[Stage] = []
        self.aside_s = 0.0  # our own work, not AutoAttack's

    def over(self, name: str, attack: Any) -> None:
        inner = attack.perturb

        def perturb(x: Tensor, y: Tensor, **options: Any) -> Tensor:
            aside = time.process_time()
            stage = self.enter(name)
            index = stage.entered[stage.seen : stage.seen + len(x)]
            if not torch.equal(self.images[index], x) or not torch.equal(self.labels[index], y):
                raise SystemExit(f"{name}: not the images that should come now")
            before = self.net.forwards, self.net.backwards
            start = time.process_time()
            self.aside_s += start - aside
            found: Tensor = inner(x, y, **options)
            aside = time.process_time()
            stage.cpu_s += aside - start
            stage.forwards += self.net.forwards - before[0]
            stage.backwards += self.net.backwards - before[1]
            self.note(stage, index, x, y, found)
            self.aside_s += time.process_time() - aside
            return found

        attack.perturb = perturb

    def enter(self, name: str) -> Stage:
        if not self.stages or self.stages[-1].name != name:
            self.stages.append(Stage(name, list(self.standing)))
            self.stages[-1].bare_pass = zoo.bare_pass(self.net.net, self.images)
        return self.stages[-1]

    def note(self, stage: Stage, index: list[int], x: Tensor, y: Tensor, found: Tensor) -> None:
        fooled = (predict(self.net.net, found) != y).nonzero().flatten()
        stage.broken += [index[i] for i in fooled.tolist()]
        stage.seen += len(x)
        order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[self.norm]
        if len(fooled):
            shift = (found[fooled].double() - x[fooled].double()).flatten(1)
            stage.excess = max(stage.excess, float(torch.linalg.vector_norm(shift, order, dim=1).max()) - self.eps)
        gone = set(stage.broken)
        self.standing = [i for i in stage.entered if i not in gone]
        print(
            f"{stage.name}: {stage.seen}/{len(stage.entered)}, {len(gone)} broken, {stage.cpu_s:.0f} CPU s", flush=True
        )


def attack(model: str, norm: str, eps: float, n: int, seed: int, stem: str) -> dict[str, Any]:
    from pyautoattack import AutoAttack

    net = zoo.load(model).requires_grad_(False)  # no gradients of weights: FAB would compute them, to no use
    images, labels = zoo.to_attack(model, n)
    counted = Counted(net).eval()
    watch = Watch(counted, images, labels, norm, eps)
    whole = AutoAttack(counted, norm=NORMS[norm], eps=eps, version="standard", seed=seed)
    for name, part in {"apgd-ce": whole.apgd, "apgd-t": whole.apgd_targeted, "fab-t": whole.fab}.items():
        watch.over(name, part)
    watch.over("square", whole.square)
    with warned() as said:
        start = time.process_time()
        found, _ = whole.run_standard_evaluation(images, labels, batch_size=BATCH)
        total = time.process_time() - start - watch.aside_s
    standing = (predict(net, found) == labels).nonzero().flatten().tolist()
    if standing != watch.standing:
        raise SystemExit(f"AutoAttack leaves {len(standing)} images, its stages {len(watch.standing)}")
    keep_hard(stem, watch, found)
    return {
        "model": model,
        "note": zoo.ZOO[model].note,
        "weights": zoo.digest(net),
        "norm": norm,
        "eps": eps,
        "n": len(labels),
        "seed": seed,
        "batch": BATCH,
        "versions": {name: version(name) for name in ("torch", "numpy", "pyautoattack")},
        "clean": len(labels) - len(watch.wrong),
        "robust": len(standing),
        "cpu_s": round(total, 2),
        "forwards": counted.forwards,
        "backwards": counted.backwards,
        "warnings": sorted(said),
        "bare_pass_250": zoo.bare_pass(net, images),
        "bare_pass_250_batch_250": zoo.bare_pass(net, images, batch=250),
        "stages": [summary(stage) for stage in watch.stages],
        "wrong": watch.wrong,
        "broken": {stage.name: sorted(stage.broken) for stage in watch.stages},
        "standing": standing,
    }


@contextmanager
def warned() -> Iterator[set[str]]:
    """What AutoAttack warns of meanwhile, each once, numbers left out."""
    said: set[str] = set()
    logger = logging.getLogger("auto-attack")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda entry: said.add(re.sub(r"\d+(\.\d+)?%?", "N", entry.getMessage())[:240])
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def summary(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "entered": len(stage.entered),
        "left": len(stage.entered) - len(stage.broken),
        "cpu_s": round(stage.cpu_s, 2),
        "forwards": stage.forwards,
        "backwards": stage.backwards,
        "excess": stage.excess,
        "bare_pass_250": stage.bare_pass,
    }


def keep_hard(stem: str, watch: Watch, found: Tensor) -> None:
    """What the later stages found, in the cache: the images to learn from."""
    from safetensors.torch import save_file

    index = sorted(i for stage in watch.stages[1:] for i in stage.broken)
    folder = zoo.CACHE / "autoattack"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"index": torch.tensor(index, dtype=torch.int64), "adversarials": found[index].contiguous()}
    save_file(tensors, folder / f"{stem}.safetensors")


def written(record: dict[str, Any]) -> str:
    """JSON with a line per entry: lists of indices stay on one line."""
    lines = []
    for key, value in record.items():
        if key in ("stages", "broken"):
            inner = (
                [f"    {json.dumps(item)}" for item in value]
                if isinstance(value, list)
                else [f"    {json.dumps(name)}: {json.dumps(item)}" for name, item in value.items()]
            )
            opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
            lines.append(f"  {json.dumps(key)}: {opening}\n" + ",\n".join(inner) + f"\n  {closing}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(zoo.ZOO))
    parser.add_argument("--norm", choices=list(NORMS), default="linf")
    parser.add_argument("--eps", type=float, help="default: the net's own")
    parser.add_argument("--n", type=int, default=1000, help="test images (fewer where the data has fewer)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="make the record anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    eps = options.eps or zoo.ZOO[options.model].budgets[options.norm]
    path = record_path(options.model, options.norm, eps, options.seed, options.n if options.n != 1000 else None)
    if path.is_file() and not options.force:
        print(f"{path.name} exists")
        return
    record = attack(options.model, options.norm, eps, options.n, options.seed, path.stem)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(written(record))
    print(f"{path.name}: {record['clean']} right, {record['robust']} robust, {record['cpu_s']} CPU s", flush=True)


if __name__ == "__main__":
    main()
