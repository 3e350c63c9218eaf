"""A training run in a process of its own, which dies where it is told to."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from tests.helpers_core import digits, forked_seed, small_net
from torch import Tensor, nn

import sparring as sp
from sparring.hardening import Hardened, TrainingProgress, trainer

THREAT = sp.ThreatModel("linf", 0.1)
STEPS = 3 * 2
"""Of the run below: 3 epochs with 2 steps each."""


class Net(nn.Module):
    """Everything that keeps a state or draws a number: batch norm, dropout, weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.net = nn.BatchNorm2d(1), nn.Dropout(0.2), small_net()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.net(self.drop(self.norm(images)))
        return out


def run(out: Path | None, method: str = "pgd:steps=2", die_at: int = -1) -> Hardened:
    """Three short epochs; the process kills itself when step `die_at` has been counted."""
    images, labels = digits()
    with forked_seed(1):
        net = Net()

    def count(event: TrainingProgress) -> None:
        if event.step == die_at and not event.ended:
            os.kill(os.getpid(), signal.SIGKILL)

    return sp.harden(
        net,
        (images[:300], labels[:300]),
        THREAT,
        method=method,
        epochs=3,
        batch_size=128,
        effort=None,
        out=out,
        progress=count,
        augment=("crop",),
        watch=20,
    )


def killed(out: Path, method: str, die_at: int) -> bool:
    """Run in a child that dies at the step; was it killed?"""
    child = os.fork()
    if child == 0:
        try:
            run(out, method, die_at)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer.SAVE_EVERY = 0.0 if sys.argv[3] == "often" else 60.0
    died = [killed(Path(sys.argv[1]), sys.argv[2], int(step)) for step in sys.argv[4:]]
    if not all(died):
        sys.exit(f"some processes were not killed: {died}")
    run(Path(sys.argv[1]), sys.argv[2])
