"""What runs between two submodules, seen from outside: which values go in, which come out, how one follows the other.

Code in a model's own `forward` has no module to hook. Its neighbours have: the last one that ran before, and the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.diagnosis.blockers import ROOT, Trace, Visit


@dataclass(frozen=True, eq=False)
class Gap:
    """From the output of submodule `start` to the input of submodule `to` ("": the output of the model). blocked: some
    image's gradient came to the one and not to the other.
    """

    start: str
    to: str
    before: Tensor
    after: Tensor
    blocked: bool

    def __str__(self) -> str:
        return f"what runs between {self.start} and {self.to}" if self.to != ROOT else f"what runs after {self.start}"


def gaps(trace: Trace) -> list[Gap]:
    """Between submodules without parts of their own that ran once, one after the other; only where something happens
    to the values or to their gradient.
    """
    leaves = [visit for visit in trace.visits if visit.leaf]
    names = [visit.name for visit in leaves]
    once = {name for name in names if names.count(name) == 1}
    found = []
    for first, second in zip(leaves, [*leaves[1:], None], strict=False):
        before, (to, after, grad) = first.left, _next(trace, second)
        if before is None or after is None or first.name not in once or (second is not None and to not in once):
            continue
        if len(before) != len(after) or before.numel() != after.numel():
            continue
        lost = _alive(grad, len(after)) & ~_alive(before.grad, len(before))
        before, after = before.detach(), after.detach()
        if not bool(before.isfinite().all() and after.isfinite().all()):
            continue  # nothing can be fitted
        if bool(lost.any()) or not torch.equal(before.reshape(after.shape), after):
            found.append(Gap(first.name, to, before, after, bool(lost.any())))
    return found


def _next(trace: Trace, second: Visit | None) -> tuple[str, Tensor | None, Tensor | None]:
    if second is not None:
        return second.name, second.entered, second.entered.grad
    output = trace.output
    return ROOT, output, None if output is None else torch.ones_like(output)


def _alive(grad: Tensor | None, n: int) -> Tensor:
    if grad is None:
        return torch.zeros(n, dtype=torch.bool)
    return (grad.flatten(1) != 0).any(1).cpu()
