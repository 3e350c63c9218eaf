"""The nets and the training runs whose results are published, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


def strided() -> nn.Sequential:
    """Two strided convolutions and two linear layers (the shape of Wong & Kolter's small net), 210,618 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


@dataclass(frozen=True)
class Run:
    """One training: data set, budget, method, epochs, settings of the recipe, number of training images, seed."""

    data: str
    eps: float
    method: str
    epochs: int
    settings: dict[str, Any] = field(default_factory=dict)
    n: int | None = None
    seed: int = 0
    net: Callable[[], nn.Module] = strided


def _mnist(method: str, eps: float = 0.3, **settings: Any) -> Run:
    return Run("mnist5k", eps, method, 30, {"eps_warmup": 0.4, **settings})


RUNS: dict[str, Run] = {
    "mnist5k-fast": _mnist("fast"),
    "mnist5k-pgd": _mnist("pgd"),
    "mnist5k-mix": _mnist("fgsm_mix", batch_size=128, eps_warmup=0.0),
    "mnist5k-zero-start": _mnist("fast:step=1,random_start=false", eps_warmup=0.0),
    "mnist5k-zero-start-unwatched": _mnist("fast:step=1,random_start=false", eps_warmup=0.0, recover=False),
    "goodfellow-clean": _mnist("clean", 0.25, eps_warmup=0.0),
    "goodfellow-mix": _mnist("fgsm_mix", 0.25, eps_warmup=0.0),
    "goodfellow-pgd": _mnist("pgd", 0.25),
    "fashion-fast": Run("fashion-mnist", 0.1, "fast", 15),
    "fashion-pgd": Run("fashion-mnist", 0.1, "pgd", 15),
    "fashion-trades": Run("fashion-mnist", 0.1, "trades:steps=5", 15),
    **{
        f"fashion12k-{method.partition(':')[0]}-seed{seed}": Run("fashion-mnist", 0.1, method, 10, {}, 12_000, seed)
        for seed in (0, 1, 2)
        for method in ("fast", "pgd", "trades:steps=5")
    },
}
