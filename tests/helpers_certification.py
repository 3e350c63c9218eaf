"""Networks for the certificates, and CROWN once more: dense float64 matrices and numpy, nothing of ours."""

from __future__ import annotations

import itertools

import numpy as np
from tests.helpers_core import forked_seed
from torch import Tensor, nn


def dense_net(sizes: tuple[int, ...], seed: int = 0) -> nn.Sequential:
    with forked_seed(seed):
        parts: list[nn.Module] = [nn.Flatten()]
        for a, b in itertools.pairwise(sizes):
            parts += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*parts[:-1]).double().eval()


def crown_by_hand(net: nn.Sequential, x: Tensor, eps: float, rows: np.ndarray) -> np.ndarray:
    """Lower bounds of rows·logits over the linf ball in [0, 1]."""
    linears = [m for m in net if isinstance(m, nn.Linear)]
    weights = [m.weight.detach().double().numpy() for m in linears]
    biases = [m.bias.detach().double().numpy() for m in linears]
    point = x.double().flatten().numpy()
    low, high = np.maximum(point - eps, 0), np.minimum(point + eps, 1)
    known: list[tuple[np.ndarray, np.ndarray]] = []

    def backward(a: np.ndarray, layer: int) -> np.ndarray:
        constant = np.zeros(len(a))
        for k in range(layer, -1, -1):
            constant, a = constant + a @ biases[k], a @ weights[k]
            if k == 0:
                break
            lo, up = known[k - 1]
            chord = np.where(lo >= 0, 1.0, np.where(up <= 0, 0.0, up / np.maximum(up - lo, 1e-300)))
            below = np.where(lo >= 0, 1.0, np.where(up <= 0, 0.0, (up > -lo).astype(float)))
            rise = np.where((lo < 0) & (up > 0), -chord * lo, 0.0)
            neg, pos = np.minimum(a, 0), np.maximum(a, 0)
            constant, a = constant + neg @ rise, pos * below + neg * chord
        return constant + np.maximum(a, 0) @ low + np.minimum(a, 0) @ high

    for k in range(len(weights) - 1):
        eye = np.eye(len(biases[k]))
        before = (low, high) if k == 0 else tuple(np.maximum(end, 0) for end in known[-1])
        w, b = weights[k], biases[k]
        least = np.maximum(w, 0) @ before[0] + np.minimum(w, 0) @ before[1] + b
        most = np.maximum(w, 0) @ before[1] + np.minimum(w, 0) @ before[0] + b
        known.append((np.maximum(backward(eye, k), least), np.minimum(-backward(-eye, k), most)))
    return backward(rows, len(weights) - 1)
