"""One seed, one random stream per image and purpose.

A stream is keyed by (seed, purpose, image digest), so an image's draws do not depend on the batch it travels
in, on its place in the data set, or on how many times the run was interrupted. Philox (Salmon et al. 2011) is
counter-based: any key gives an independent stream at no set-up cost. Draws are made on the CPU in float32, so
they are the same on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


def digest(tensor: Tensor) -> bytes:
    """SHA-256 of a tensor's shape and values (32 bytes), those of float32 unless it is finer."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    array = np.ascontiguousarray(tensor.detach().to("cpu", dtype).contiguous().numpy())
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()


def digests(images: Tensor) -> list[bytes]:
    """Digest of every image of a batch of shape (N, ...)."""
    return [digest(image) for image in images]


def forked() -> AbstractContextManager[None]:
    """Inside, torch's own generators may be seeded and drawn from; after, they are as before, those of GPUs too."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    return torch.random.fork_rng(devices)


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Inside, torch's own generators, which a model with randomness draws from, follow `key`; after, they are as
    before.
    """
    with forked():
        torch.manual_seed(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest()))
        yield


def base_seed(generator: torch.Generator | None) -> int:
    """One 63-bit seed drawn from `generator` (which advances); 0 when there is none."""
    if generator is None:
        return 0
    draw = torch.randint(0, 2**63 - 1, (1,), generator=generator, device=generator.device)
    return int(draw.item())


class Streams:
    """Random streams of a batch, one per image; draws come back stacked along the first dimension."""

    def __init__(self, seed: int, purpose: str, image_digests: Sequence[bytes]) -> None:
        self._seed = seed
        self._purpose = purpose
        self._digests = list(image_digests)
        self._streams: list[_Stream] | None = None

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def names(self) -> list[str]:
        """The first 16 hexadecimal digits of every image's digest."""
        return [key.hex()[:16] for key in self._digests]

    def _each(self) -> list[_Stream]:
        if self._streams is None:
            prefix = f"{self._seed}|{self._purpose}|".encode()
            self._streams = [_Stream(prefix + key) for key in self._digests]
        return self._streams

    def _open(self) -> list[np.random.Generator]:
        return [stream.generator for stream in self._each()]

    def select(self, chosen: Tensor) -> Streams:
        """Streams of the images where `chosen` (N,) is true, or at these places; they go on where they are, shared with
        this one. An image that is chosen twice draws twice.
        """
        kept = (chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen).tolist()
        part = Streams(self._seed, self._purpose, [self._digests[i] for i in kept])
        streams = self._each()
        part._streams = [streams[i] for i in kept]
        return part

    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draws in [0, 1) of shape (N, *shape), on the device and in the dtype of `like`."""
        return self._stack([g.random(tuple(shape), dtype=np.float32) for g in self._open()], shape, like)

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal draws of shape (N, *shape)."""
        draws = [g.standard_normal(tuple(shape), dtype=np.float32) for g in self._open()]
        return self._stack(draws, shape, like)

    def exponential(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Unit exponential draws of shape (N, *shape)."""
        draws = [g.standard_exponential(tuple(shape), dtype=np.float32) for g in self._open()]
        return self._stack(draws, shape, like)

    def integers(self, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        """Integer draws in 0..high-1 of shape (N, *shape), int64."""
        draws = [g.integers(high, size=tuple(shape)) for g in self._open()]
        return self._stack(draws, shape, like).long()

    def _stack(self, draws: list[np.ndarray], shape: Sequence[int], like: Tensor) -> Tensor:
        if not draws:
            return like.new_zeros((0, *shape))
        stacked = torch.from_numpy(np.stack(draws))
        return stacked.to(like.device) if stacked.dtype == torch.int64 else stacked.to(like.device, like.dtype)


class _Stream:
    """One image's generator, made when it is first drawn from."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @cached_property
    def generator(self) -> np.random.Generator:
        words = np.frombuffer(hashlib.blake2b(self._key, digest_size=16).digest(), dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=words))
