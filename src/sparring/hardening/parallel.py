"""One process or many: what training asks of the others. Many run under torchrun, through Lightning Fabric's DDP."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparring.errors import MissingExtraError

T = TypeVar("T")
Learner = Callable[[Tensor], Tensor]


class Workers:
    """This process, `rank` of `size`. Fabric is loaded only where torchrun started several."""

    def __init__(self, device: torch.device) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
        self.device = device
        self._fabric: Any = None
        if self.size > 1:
            self._fabric = _launched(device)
            self.device = self._fabric.device
        self.rank = 0 if self._fabric is None else int(self._fabric.global_rank)

    @property
    def leads(self) -> bool:
        """Is this the process that watches, decides and writes?"""
        return self.rank == 0

    def learner(self, module: nn.Module) -> Learner:
        """The module as it learns: gradients of its backward passes are averaged over all processes.

        Crafting uses the bare module instead: autograd.grad at the input touches no parameter, so nothing is sent.
        """
        if self._fabric is None:
            return module
        wrapped: Learner = self._fabric.setup_module(module, move_to_device=False)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Add up the weights' gradients."""
        if self._fabric is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._fabric.backward(loss)

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of `rows`: all get equally many, for they meet in every piece of a step."""
        return rows[: len(rows) - len(rows) % self.size][self.rank :: self.size]

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite these tensors with what rank 0 holds in them."""
        if self._fabric is not None:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def decided(self, value: T) -> T:
        """What rank 0 says."""
        if self._fabric is None:
            return value
        said: T = self._fabric.broadcast(value, src=0)
        return said


def _launched(device: torch.device) -> Any:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise MissingExtraError("training in several processes", "distributed") from error
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    nodes = int(os.environ["WORLD_SIZE"]) // processes
    kind = "cpu" if device.type == "cpu" else "cuda"
    fabric = Fabric(accelerator=kind, devices=processes, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return fabric
