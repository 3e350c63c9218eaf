"""JAX functions as models: compiled once per batch size, gradients by JAX's own vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.bridges.halves import Halves, halved
from sparring.bridges.through import Foreign, Pullback
from sparring.errors import InputError, MissingExtraError

STEPS = (1, 2, 3, 4, 6, 8, 12)
"""Batch sizes that are compiled, times powers of two: an attack's batches shrink, and every new shape costs time."""
SMALL = 2**14
"""Bytes; scores of a thousand images, but no gradient of more than a few pictures."""


class JaxModel(Foreign):
    """What `from_jax` returns."""

    def __init__(self, function: Callable[..., Any], parameters: Any, layout: str) -> None:
        super().__init__(layout)
        jax = _library()
        self._function, self.parameters_of_jax = function, parameters

        def run(parameters: Any, images: Any) -> Any:
            given = images.transpose(0, 2, 3, 1) if layout == "NHWC" and images.ndim == 4 else images
            return function(given) if parameters is None else function(parameters, given)

        self._run, self._scores = run, jax.jit(run)
        self._halves: dict[tuple[int, ...], Halves] = {}

        def along(p: Any, images: Any, grads: Any, direction: Any) -> Any:
            return (jax.vjp(lambda x: run(p, x), images)[1](grads)[0] * direction).sum()

        self._second = jax.jit(jax.grad(along, argnums=(1, 2)))

    def __deepcopy__(self, memo: Any) -> JaxModel:
        """JAX's values never change, so a copy shares them."""
        return JaxModel(self._function, self.parameters_of_jax, self.layout)

    def scores(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        return _cut(self._scores(self.parameters_of_jax, _to_jax(_padded(images))), len(images))

    def traced(self, images: Tensor) -> tuple[Tensor, Pullback]:
        """Logits, and the vector-Jacobian product at `images`."""
        n, given, parameters = len(images), _to_jax(_padded(images)), self.parameters_of_jax
        halves = self._halves.get(given.shape)
        if halves is None:
            halves = self._halves[given.shape] = halved(self._run, parameters, given)
        scores, kept = halves.forward(parameters, given)

        def pullback(grads: Tensor) -> Tensor:
            return _cut(halves.backward(parameters, kept, _to_jax(_padded(grads, 0.0))), n).to(images.device)

        return _cut(scores, n), pullback

    def second(self, images: Tensor, grads: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Exact second derivatives."""
        n, given = len(images), [_to_jax(_padded(part, 0.0)) for part in (images, grads, direction)]
        of_images, of_grads = self._second(self.parameters_of_jax, *given)
        return _cut(of_images, n), _cut(of_grads, n)


def from_jax(function: Callable[..., Any], parameters: Any = None, *, layout: str = "NHWC") -> JaxModel:
    """A JAX function of images to logits as a model of ours, with JAX's gradients.

    function: pure; called with images (N, H, W, C), or (N, C, H, W) for layout "NCHW", or, where `parameters` (any
    pytree of arrays) are given, with these first. It is compiled. Weights that the function itself holds become part
    of the compiled program, so hand large ones over as `parameters`.

    Raises `InputError` for what is not callable, `MissingExtraError` without the extra "jax".
    """
    if not callable(function):
        raise InputError(f"function must be callable, images to logits, got {type(function).__name__}")
    return JaxModel(function, parameters, layout)


def _library() -> ModuleType:
    try:
        import jax
    except ImportError:
        raise MissingExtraError("a JAX model", "jax") from None
    return jax


@cache
def padded_size(n: int) -> int:
    """The nearest compiled batch size that holds `n` images.

    >>> [padded_size(n) for n in (1, 5, 17, 64, 65)]
    [1, 6, 24, 64, 96]
    """
    scale = 1
    while True:
        for step in STEPS:
            if step * scale >= n:
                return step * scale
        scale *= 2


def _padded(batch: Tensor, fill: float | None = None) -> Tensor:
    """The batch, filled up to a compiled size with its first image, or with `fill`."""
    missing = padded_size(len(batch)) - len(batch)
    if missing == 0:
        return batch
    rest = batch[:1].expand(missing, *batch.shape[1:])
    return torch.cat([batch, rest if fill is None else torch.full_like(rest, fill)])


def _cut(array: Any, n: int) -> Tensor:
    """The rows of the `n` images that were asked for, without what filled the batch up."""
    found = _to_torch(array)
    return found if len(found) == n else found[:n]


def _to_jax(tensor: Tensor) -> Any:
    """As a compiled function takes it: memory of the CPU as numpy shows it, which costs JAX least; DLPack elsewhere."""
    return tensor.numpy() if tensor.device.type == "cpu" else _library().dlpack.from_dlpack(tensor)


def _to_torch(array: Any) -> Tensor:
    """Without a copy, unless the array is so small that a copy by numpy costs less than to agree on sharing it."""
    if array.nbytes <= SMALL and array.dtype == np.float32:
        return torch.from_numpy(np.array(array))
    return torch.utils.dlpack.from_dlpack(array)
