"""Averaged weights: smoother than any single step's, and with batch-norm statistics of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a module's weights, decay min(`decay`, (1 + t) / (10 + t)) at step t."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval()
        self.module.requires_grad_(False)
        self._decay = decay

    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (from 0); buffers are copied, `refresh` sees to the statistics."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        mine, theirs = ([p.detach() for p in m.parameters()] for m in (self.module, module))
        with torch.no_grad():
            torch._foreach_lerp_(mine, theirs, share)
            for kept, new in zip(self.module.buffers(), module.buffers(), strict=True):
                kept.copy_(new)


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers with running statistics."""
    found = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [layer for layer in found if layer.track_running_stats]


def refresh(module: nn.Module, layers: Sequence[nn.modules.batchnorm._BatchNorm], batches: Iterable[Tensor]) -> None:
    """Running statistics of these layers of `module` anew from `batches`, the plain average over them.

    Those of other weights do not fit. The points must be of the kind that the model learns from. `module` is left in
    evaluation mode.
    """
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for points in batches:
            module(points)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    module.eval()
