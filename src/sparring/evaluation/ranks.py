"""Several processes on one evaluation: chunks are dealt out, and all meet at the end of every stage.

Under `torchrun` this happens by itself (gloo, or the process group that the caller has set up). Every process ends
with the same evaluation. Images must be readable, and an `out` folder writable, from all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from sparring.errors import SparringError

T = TypeVar("T")


class Ranks:
    """This process among all: `rank` of `size`; one of one where there is no process group."""

    def __init__(self) -> None:
        launched = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
        if launched and dist.is_available() and not dist.is_initialized():
            dist.init_process_group("gloo")
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    def mine(self, number: int) -> bool:
        """Does this process do piece `number`?"""
        return number % self.size == self.rank

    def gathered(self, work: Callable[[], list[T]]) -> list[T]:
        """Do `work` and return what all processes' work returned, in the order of ranks.

        Where one of them fails, all raise `SparringError`s: its own error there, its text on the others.
        """
        if self.size == 1:
            return work()
        failure: SparringError | None = None
        parts: list[T] = []
        try:
            parts = work()
        except SparringError as error:
            failure = error
        everyone: list[tuple[list[T], str | None]] = [([], None)] * self.size
        dist.all_gather_object(everyone, (parts, None if failure is None else str(failure)))
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(everyone):
            if message is not None:
                raise SparringError(f"process {rank} failed: {message}")
        return [part for theirs, _ in everyone for part in theirs]
