"""The net that is attacked: trained the plain way on 6,000 images, as somebody would who never heard of attacks.

    python victim.py out

writes its weights, and images that neither it nor its successor sees in training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import sparring as sp

TRAIN, HELD_OUT = 6000, 2000
"""The first 6,000 of the class-balanced order, which `sparring harden -n 6000` trains on too; and the 2,000 behind."""


def build() -> nn.Module:
    """Two convolutions and two linear layers, 166,406 weights: the small net of Wong & Kolter (2018)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def main(out: Path) -> None:
    """Train on the first images, keep the next ones aside."""
    torch.manual_seed(0)
    images, labels = sp.load_data("fashion-mnist", split="train", n=TRAIN + HELD_OUT)
    net = build()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(10):
        for batch in torch.randperm(TRAIN).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "held-out.npz", images=images[TRAIN:].numpy(), labels=labels[TRAIN:].numpy())
    save_file(net.state_dict(), out / "standard.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
