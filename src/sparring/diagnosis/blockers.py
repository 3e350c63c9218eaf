"""Which parts of a model stop its gradient: found by hooks on every submodule, during one pass there and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparring.goal import Untargeted
from sparring.losses import margin
from sparring.model import frozen_eval

RETRIES = 4


@dataclass(eq=False)
class Visit:
    """A submodule in the order it ran: its input and output, and the gradients that reached them (None: none did)."""

    name: str
    entered: Tensor
    left: Tensor | None = None
    leaf: bool = True
    cut: bool = False

    @property
    def blocked(self) -> Tensor:
        """Bool (N,): a gradient came to its output and none came out of its input."""
        if self.left is None or self.left.grad is None or len(self.left) != len(self.entered):
            return torch.zeros(len(self.entered), dtype=torch.bool)
        alive = _alive(self.left)
        return alive if self.cut else alive & ~_alive(self.entered)

    @property
    def reached(self) -> Tensor:
        """Bool (N,): a gradient came to its input."""
        return _alive(self.entered)


@dataclass(eq=False)
class Trace:
    """All visits in order; `reached` (N,): the images that a `gradient` came back to; `output`: the model's; `closed`:
    some submodule ran under no_grad, which was lifted for the trace.
    """

    visits: list[Visit] = field(default_factory=list)
    reached: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    gradient: Tensor | None = None
    output: Tensor | None = None
    closed: bool = False


def traced(model: nn.Module, images: Tensor, labels: Tensor) -> Trace:
    """One pass of the margin there and back, gradients restarted wherever the graph is cut; after every submodule where
    code between two of them takes no tensor with a gradient.
    """
    cuts: set[str] = set()
    severed = False
    with frozen_eval(model), torch.enable_grad():
        for attempt in range(RETRIES):
            trace, running = Trace(), list[str]()
            handles = _hooks(model, trace, running, cuts, severed)
            start = images.detach().clone().requires_grad_(ROOT not in cuts)
            try:
                trace.output = model(start)
                loss = margin(trace.output, Untargeted(labels)).sum()
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                trace.reached, trace.gradient = _alive(start), start.grad
                return trace
            except RuntimeError:  # such as numpy asked for a tensor that requires grad
                if attempt == RETRIES - 1:
                    raise
                place = running[-1] if running else ROOT
                severed |= place in cuts
                cuts.add(place)
            finally:
                for handle in handles:
                    handle.remove()
    raise AssertionError  # pragma: no cover - the loop returns or raises


ROOT = ""


def _hooks(model: nn.Module, trace: Trace, running: list[str], cuts: set[str], severed: bool) -> list[Any]:
    open_visits: list[Visit | None] = []

    def before(name: str, leaf: bool) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            running.append(name)
            if not torch.is_grad_enabled():
                trace.closed = True
                record()
            if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
                open_visits.append(None)
                return None
            h = inputs[0]
            if not h.requires_grad:
                h = h.detach().clone().requires_grad_()
            h.retain_grad()
            visit = Visit(name, h, leaf=leaf, cut=name in cuts)
            trace.visits.append(visit)
            open_visits.append(visit)
            return (h.detach().clone() if visit.cut else h.view_as(h), *inputs[1:])

        return hook

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        running.pop()
        visit = open_visits.pop()
        if visit is None or not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if not output.requires_grad:
            visit.cut = True
            output = output.detach().clone().requires_grad_()
        output.retain_grad()
        visit.left = output
        return output.detach() if severed else output.view_as(output)

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(before(name, not any(module.children()))))
            handles.append(module.register_forward_hook(after))
    return handles


def record(*_: Any) -> None:
    """As a hook before a submodule: gradients are recorded from here on, up to the end of the no_grad around it."""
    torch.set_grad_enabled(True)


def _alive(tensor: Tensor) -> Tensor:
    if tensor.grad is None:
        return torch.zeros(len(tensor), dtype=torch.bool)
    return (tensor.grad.flatten(1) != 0).any(1).cpu()
