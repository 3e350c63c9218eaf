"""GradAlign (Andriushchenko & Flammarion 2020, arXiv:2007.02617)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cosine_similarity

from sparring.hardening.method import Batch


def misalignment(batch: Batch) -> Tensor:
    """1 - cos(∇ at x, ∇ at x + U(±eps)), averaged over the batch, with a graph to the weights.

    Where it is 0 the loss is linear around the image and one step finds its maximum; it rises before a single-step
    training collapses. The gradient at x is held fixed and the other one learns, so the double backward is paid once.
    Attention is computed step by step here: its fast kernels have no second derivative.
    """
    moved = batch.draws.inside(batch.threat.around(batch.images))
    there = _gradient(batch, moved, keep=True).flatten(1)
    here = _gradient(batch, batch.images, keep=False).flatten(1)
    return 1 - cosine_similarity(here, there).mean()


def _gradient(batch: Batch, points: Tensor, *, keep: bool) -> Tensor:
    at = points.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        value = batch.criterion.attack(batch.module(at), batch.labels).sum()
        (grad,) = torch.autograd.grad(value, at, create_graph=keep)
    return grad
