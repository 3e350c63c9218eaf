"""Certified training: nets trained by IBP, what is proved of them, and what attacks leave; one JSON per run.

python bench/certify_train.py fashion-mnist
python bench/certify_train.py mnist5k
python bench/certify_train.py --stored    # nets that were trained before: prove and attack, nothing else
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

import sparring as sp
from nets import wong
from sparring.hardening import TrainingProgress, seeded

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "certify"
EPS = 0.1
RUNS = {
    "fashion-mnist": {"epochs": 14, "batch_size": 200, "lr": 2e-3, "eps_warmup": 0.6},
    "mnist5k": {"epochs": 60, "batch_size": 100, "lr": 2e-3, "eps_warmup": 0.6},
}


def told(event: TrainingProgress) -> None:
    if event.ended:
        sys.stderr.write(f"epoch {event.epoch}/{event.epochs}: PGD-10 {event.robust}\n")


def run(name: str, *, stored: bool) -> dict[str, object]:
    recipe = RUNS[name]
    test = sp.load_data(name, split="test", lazy=False)
    out = HERE / ".cache" / "certify" / name
    if stored:
        model = sp.load_model(wong(), weights=out / "model.safetensors")
        return reported({"data": name, "recipe": recipe, "train_cpu_s": before(name), "eps": EPS}, model, test)
    images, labels = sp.load_data(name, split="train", lazy=False)
    threat = sp.ThreatModel("linf", EPS)
    with seeded(0):
        model = wong()
    started = time.process_time()
    done = sp.harden(
        model, (images, labels), threat, method="certified", seed=0, effort=None, out=out, progress=told, watch=200,
        test=(test.images, test.labels), **recipe,  # type: ignore[arg-type]
    )  # fmt: skip
    seconds = time.process_time() - started
    facts: dict[str, object] = {"data": name, "recipe": recipe, "train_cpu_s": round(seconds, 1), "eps": EPS}
    return reported(facts, done.model, test)


def before(name: str) -> object:
    """CPU seconds of the training, as they were recorded."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()).get("train_cpu_s") if path.exists() else None


def reported(facts: dict[str, object], model: torch.nn.Module, test: sp.loading.Dataset) -> dict[str, object]:
    """What is proved of `model`, and what attacks leave."""
    threat = sp.ThreatModel("linf", EPS)
    for method, count in (("ibp", len(test.labels)), ("crown-ibp", len(test.labels)), ("crown", 1000)):
        begun = time.process_time()
        found = sp.certify(model, test.images[:count], test.labels[:count], threat, method=method)
        share = found.certified_accuracy
        facts[method] = {
            "clean": float(found.right.double().mean()),
            "certified": share.value,
            "low": share.low,
            "high": share.high,
            "n": share.n,
            "cpu_s": round(time.process_time() - begun, 1),
        }
    attacked = sp.evaluate(model, test.images[:1000], test.labels[:1000], threat, effort="quick", keep=False)
    facts["attacked_quick_1000"] = attacked.robust_accuracy.value
    return facts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RUNS))
    parser.add_argument("--stored", action="store_true", help="nets trained before: prove and attack, nothing else")
    torch.set_num_threads(1)
    options = parser.parse_args()
    for chosen in options.names:
        found = run(chosen, stored=options.stored)
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{chosen}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2))
