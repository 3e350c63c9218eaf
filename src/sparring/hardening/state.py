"""What a run needs to go on, in memory for a roll-back and on disk for a resumption."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.errors import RecordsError
from sparring.files import write_whole

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that step number `step` depends on.

    pgd: the watch's PGD-10 accuracy there, under the budget `eps` of that moment; -1 and 0 at the start.
    """

    step: int
    eps: float
    pgd: float
    module: dict[str, Any]
    average: dict[str, Any] | None
    optimizer: dict[str, Any]
    memory: dict[str, Tensor]

    def plain(self) -> dict[str, Any]:
        """As a dictionary of tensors and numbers."""
        return dict(vars(self))


def copied(thing: Any) -> Any:
    """A deep copy of nested dictionaries and lists; tensors keep their layout."""
    if isinstance(thing, Tensor):
        return thing.detach().clone(memory_format=torch.preserve_format)
    if isinstance(thing, dict):
        return {key: copied(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [copied(value) for value in thing]
    return thing


def save_state(path: Path, key: str, content: dict[str, Any]) -> None:
    """Write the state whole or not at all."""
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "key": key, **content}, stream)
    write_whole(path, stream.getvalue())


def load_state(path: Path, key: str, device: torch.device) -> dict[str, Any] | None:
    """The state of the run `key`, None where there is none yet; nothing is unpickled but tensors and plain values.

    Raises `RecordsError` where the file is another run's or cannot be read.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the parser meets arbitrary bytes
        raise RecordsError(f"{path} cannot be read, so the run cannot go on; delete it to start over") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RecordsError(f"{path} has another format; delete it to start over, or choose another folder")
    if content["key"] != key:
        raise RecordsError(
            f"{path.parent} holds another run (other model, data, threat, method, setting, seed, processes or version "
            "of sparring): choose another folder, or delete this one to start over"
        )
    return content
