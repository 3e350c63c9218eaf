"""Random numbers of training: which they are follows from seed, purpose and step alone, so a step can be repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from sparring.rng import Streams
from sparring.threat import Region


def seed_of(*parts: int | str) -> int:
    """A seed that follows from `parts` (seed, purpose, step, rank, ...) and from nothing else; 32 bits."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


class Draws:
    """Draws for a batch of `n` images from one generator.

    An attack's draws belong to an image, whatever batch it travels in; those of training belong to a step, which an
    interrupted run repeats as a whole. One generator for the batch is a hundred times as fast.
    """

    def __init__(self, n: int, seed: int) -> None:
        self._n = n
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draws in [0, 1) of shape (n, *shape), in the dtype and on the device of `like`."""
        return torch.rand((self._n, *shape), generator=self.generator, dtype=like.dtype).to(like.device)

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal draws (n, *shape)."""
        return torch.randn((self._n, *shape), generator=self.generator, dtype=like.dtype).to(like.device)

    def exponential(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Unit exponential draws (n, *shape)."""
        drawn = torch.empty((self._n, *shape), dtype=like.dtype)
        return drawn.exponential_(generator=self.generator).to(like.device)

    def integers(self, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draws from 0..high-1, int64 (n, *shape)."""
        return torch.randint(high, (self._n, *shape), generator=self.generator).to(like.device)

    def inside(self, region: Region) -> Tensor:
        """A random allowed point per image of the region."""
        return region.sample(cast(Streams, self))  # it asks for nothing but the four draws above


def reseed(seed: int, device: torch.device) -> None:
    """Seed what a model itself draws from (dropout), here and on the model's device.

    `torch.manual_seed` would do, but without a GPU every call of it adds to a list of what to do once there is one.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What draws from torch's global generator inside, such as a model's first weights, follows from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "model"))
        yield
