"""What the core tests share: models with known answers, data, and measurements that do not use the library."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

NORMS = ("linf", "l2", "l1", "l0")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images; about a sixth of the pixels sit exactly on a bound."""
    drawn = torch.rand(shape, generator=generator(seed), dtype=torch.float64) * 1.2 - 0.1
    return drawn.clamp(0, 1).to(dtype)


class Linear(nn.Module):
    """Logits = W x + b on flattened images of `size` numbers, in the dtype of its weights."""

    def __init__(self, size: int, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        g = generator(seed + 1000)
        self.weight = nn.Parameter(torch.randn(classes, size, generator=g, dtype=torch.float64).to(dtype))
        centred = -0.5 * self.weight.detach().sum(1)
        self.bias = nn.Parameter(centred + 0.1 * torch.randn(classes, generator=g, dtype=torch.float64).to(dtype))

    def forward(self, images: Tensor) -> Tensor:
        return functional.linear(images.flatten(1), self.weight, self.bias)


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.from_numpy(data.images[order]).float()[:, None] / 16
    return images, torch.from_numpy(data.target[order]).long()


def small_net(classes: int = 10) -> nn.Module:
    with forked_seed(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, classes),
        )


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int = 15) -> nn.Module:
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    g = generator(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=g).split(100):
            optimiser.zero_grad()
            functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return net.eval()


@contextmanager
def forked_seed(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def measured(delta: Tensor, norm: str) -> np.ndarray:
    """‖delta‖ per row in float64, by numpy."""
    rows = np.abs(delta.detach().cpu().double().numpy().reshape(len(delta), -1))
    if norm == "l0":
        return (rows != 0).sum(1).astype(float)
    return np.linalg.norm(rows, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


def slack(norm: str, eps: float, size: int, top: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """What rounding x + delta and eps itself may cost: half a unit in the last place per number, and a margin of 4."""
    if norm == "l0":
        return 0.0
    unit = torch.finfo(dtype).eps * top
    return 4 * (unit * {"linf": 1.0, "l2": size**0.5, "l1": float(size)}[norm] + torch.finfo(dtype).eps * eps)


def assert_allowed(
    originals: Tensor, found: Tensor, norm: str, eps: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> None:
    assert found.shape == originals.shape
    assert found.dtype == originals.dtype
    assert bool(found.isfinite().all())
    low, high = (torch.tensor(b, dtype=found.dtype) for b in bounds)
    assert bool((found >= low).all())
    assert bool((found <= high).all())
    spent = measured(found.double() - originals.double(), norm)
    top = max(abs(b) for b in bounds)
    allowed = eps + slack(norm, eps, originals[0].numel(), top, originals.dtype)
    assert spent.max() <= allowed, f"{norm}: {spent.max()} > {allowed}"


def global_random_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), *rest), random.getstate()
