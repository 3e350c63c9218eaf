"""A hand-written adaptive PGD: 100 steps, 5 restarts, the detectors' weight swept. `sp.evaluate_stack` mustn't lose.

Its loop, loss and step rule are its own; of sparring it uses only the stack's differentiable pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparring.defenses.stack import Stack
from sparring.rng import Streams

LAMBDAS = (0.0, 0.1, 1.0, 10.0)


def evasions(
    stack: Stack,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 100,
    restarts: int = 5,
    lambdas: tuple[float, ...] = LAMBDAS,
    gradients: tuple[str, ...] = ("declared", "identity"),
    draws: int = 1,
    batch: int = 64,
) -> Tensor:
    """Bool (N,): a wrong, unflagged point was seen in the linf ball (with randomness: for all of 20 draws)."""
    torch.manual_seed(0)
    weights = lambdas if stack.detectors else (0.0,)
    paths = gradients if stack.transforms else gradients[:1]
    done = torch.cat([_evading(stack, x, y) for x, y in zip(images.split(batch), labels.split(batch), strict=True)])
    for path in paths:
        for weight in weights:
            for _ in range(restarts):
                left = (~done).nonzero().flatten()
                for rows in left.split(batch):
                    done[rows] |= _run(stack, images[rows], labels[rows], eps, steps, weight, path, draws)
    return done


def _run(
    stack: Stack, images: Tensor, labels: Tensor, eps: float, steps: int, weight: float, path: str, draws: int
) -> Tensor:
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    x = (images + eps * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    found = torch.zeros(len(images), dtype=torch.bool)
    for _ in range(steps):
        x.requires_grad_()
        loss = 0.0
        for _ in range(draws):
            sight = stack.look(x, _streams(len(x)), path)
            loss = loss + cross_entropy(sight.answers, labels, reduction="sum")
            if weight:
                loss = loss - weight * sight.excess.clamp_min(0).sum()
        (grad,) = torch.autograd.grad(loss, x)
        x = (x.detach() + 2.5 * eps / steps * grad.sign()).clamp(low, high)
        if not stack.random:
            found |= _evading(stack, x, labels)
        if bool(found.all()):
            break
    return found | _evading(stack, x, labels)


def _evading(stack: Stack, x: Tensor, labels: Tensor) -> Tensor:
    found = torch.ones(len(x), dtype=torch.bool)
    for _ in range(20 if stack.random else 1):
        decision = stack(x)
        found &= (decision.labels != labels) & ~decision.withheld
    return found


def _streams(n: int) -> Streams:
    seed = int(torch.randint(0, 2**62, (1,)))
    return Streams(seed, "rival", [str(i).encode() for i in range(n)])
