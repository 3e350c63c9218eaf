"""The adversarials that a run found, read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparring.errors import RecordsError


class Adversarials(Mapping[int, Tensor]):
    """The verified adversarials, by image index; shards on disk are read when asked for.

    `adversarials[i]` has shape (C, H, W); an image that did not break has none (`KeyError`).
    """

    def __init__(self, places: dict[int, tuple[Any, int]]) -> None:
        self._places = dict(sorted(places.items()))

    def __getitem__(self, index: int) -> Tensor:
        shard, row = self._places[int(index)]
        if isinstance(shard, Tensor):
            return shard[row]
        try:
            with safe_open(shard, framework="pt") as stored:
                found: Tensor = stored.get_slice("adversarials")[row]
        except (OSError, SafetensorError) as error:
            raise RecordsError(f"cannot read {shard}: {error}") from error
        return found

    def __iter__(self) -> Any:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def joined(self, others: Adversarials, indices: Sequence[int]) -> Adversarials:
        """These and `others`, whose image i is image `indices[i]` here; where both have one, theirs."""
        return Adversarials({**self._places, **{indices[i]: place for i, place in others._places.items()}})

    def stack(self, images: Tensor) -> Tensor:
        """`images` (N, C, H, W) with every broken image replaced by its adversarial."""
        stacked = images.clone()
        for index in self:
            stacked[index] = self[index].to(stacked)
        return stacked
