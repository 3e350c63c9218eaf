"""The same net with three activations, trained alike: what `sparring compare` says of them.

    python bench/activations.py

Small nets on scikit-learn's digits, the same seed, the same updates; 200 test images, linf 0.1, effort quick. Hard
saturation stands for activations that hide a gradient: what ordinary attacks leave of it (PGD-40 on the cross-entropy)
stands beside what the audit leaves. The record is bench/results/diagnose/activations.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

import sparring as sp
from diagnose import THREAT, Hard, net, trained
from sparring.auditing.side_by_side import compare_models

RECORD = Path(__file__).resolve().parent / "results" / "diagnose" / "activations.json"
ACTIVATIONS = {"ReLU": nn.ReLU, "GELU": nn.GELU, "hard saturation": Hard}
IMAGES, EPOCHS, SEED = 200, 12, 0


def main() -> None:
    torch.set_num_threads(1)
    train = sp.load_data("digits", split="train", lazy=False)
    images, labels = sp.load_data("digits", n=IMAGES, lazy=False)
    models: dict[str, nn.Module] = {}
    for name, activation in ACTIVATIONS.items():
        torch.manual_seed(SEED)
        models[name] = trained(net(activation), *train, robust=False, epochs=EPOCHS)
    found = compare_models(
        models, images, labels, THREAT, effort="quick", progress=lambda name: print(name, flush=True)
    )
    plain = {
        name: sp.evaluate(model, images, labels, THREAT, attacks=["pgd:steps=40"], keep=False).robust_accuracy.value
        for name, model in models.items()
    }
    record = {"epochs": EPOCHS, "seed": SEED, "pgd": plain, **found.model_dump()}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
