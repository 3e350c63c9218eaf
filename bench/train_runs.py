"""The nets and the training runs whose results are published, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nets import wong


def strided() -> nn.Sequential:
    """Two strided convolutions and two linear layers (the shape of Wong & Kolter's small net), 210,618 parameters."""
    return wong(hidden=128)


def striding() -> nn.Sequential:
    """One more convolution at half resolution, 214,698 parameters: four times the work of `strided` per image."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


@dataclass(frozen=True)
class Run:
    """One training: data set, budget, method, epochs (None for the default), settings of the recipe, number of training
    images, seed."""

    data: str
    eps: float
    method: str
    epochs: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    n: int | None = None
    seed: int = 0
    net: Callable[[], nn.Module] = strided


def _mnist(method: str, eps: float = 0.3, epochs: int = 30, **settings: Any) -> Run:
    return Run("mnist5k", eps, method, epochs, {"batch_size": 50, "lr": 5e-3, **settings})


RUNS: dict[str, Run] = {
    **{f"mnist5k-{method}": Run("mnist5k", 0.3, method) for method in ("fast", "pgd", "trades")},
    "mnist5k-mix": _mnist("fgsm_mix", epochs=20, batch_size=100),
    "mnist5k-zero-start": _mnist("rs_fgsm:step=1,random_start=false"),
    "mnist5k-zero-start-unwatched": _mnist("rs_fgsm:step=1,random_start=false", recover=False),
    "goodfellow-clean": _mnist("clean", 0.25, epochs=20),
    "goodfellow-mix": _mnist("fgsm_mix", 0.25, epochs=20, batch_size=100),
    "goodfellow-pgd": _mnist("pgd", 0.25, epochs=20),
    **{f"fashion-{method}": Run("fashion-mnist", 0.1, method) for method in ("fast", "pgd", "trades")},
    **{
        f"fashion12k-{method}-seed{seed}": Run("fashion-mnist", 0.1, method, n=12_000, seed=seed)
        for seed in (0, 1, 2)
        for method in ("fast", "pgd", "trades")
    },
}
