"""Adversarial weight perturbation (Wu, Xia & Wang 2020, arXiv:2004.05884)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed_weights(module: nn.Module, loss: Callable[[], Tensor], gamma: float) -> Iterator[None]:
    """Inside, the weights of every layer stand `gamma·‖w‖` uphill of `loss`; afterwards they are what they were.

    The gradient of the learning step is then taken there, which flattens the loss around the weights. Only tensors
    with two or more dimensions move, as in the paper. The copy is put back, not subtracted: no bit is lost.
    """
    weights = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
    grads = torch.autograd.grad(loss(), weights, allow_unused=True)
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, grad in zip(weights, grads, strict=True):
            if grad is not None:
                weight.add_(grad * (gamma * weight.norm() / grad.norm().clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
