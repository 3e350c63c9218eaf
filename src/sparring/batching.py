"""How a model likes to be called: batch size and memory layout, chosen once per run from the model and one image.

Both follow from the model alone, never from a clock, so that an interrupted run and its resumption compute the
same floating-point numbers.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import InputError, SparringError
from sparring.model import Model, frozen_eval, hookable, logits_of

CPU_TARGET = 12 * 2**20
"""Bytes of activations per batch that still live in a cache."""
CPU_MOST = 96 * 2**20
"""Bytes of activations up to which a batch of 32 is worth leaving the cache: convolutions need some rows to share."""
GPU_TARGET = 4 * 2**30
SMALL = 2**18
"""Bytes of activations per image below which one thread is faster than several that wait for each other."""


@dataclass(frozen=True)
class Plan:
    """`batch_size` images per call; `channels_last` says whether they are laid out channels-last; `one_thread`
    that the model is too small to be worth a second thread (and waiting for one costs more than it brings).
    """

    batch_size: int
    channels_last: bool
    one_thread: bool = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run with the planned number of threads; torch's setting is as it was afterwards."""
        threads = torch.get_num_threads()
        try:
            if self.one_thread:
                torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(threads)


def plan(model: Model, images: Tensor, batch_size: int | None = None) -> Plan:
    """Choose a plan for `model` on images like `images` (N, C, H, W); a given `batch_size` is kept.

    Raises `InputError` unless `batch_size` is None or a whole number >= 1.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(f"batch_size must be a whole number >= 1 or None (chosen for you), got {batch_size!r}")
    with frozen_eval(model), torch.no_grad():
        channels_last = _takes_channels_last(model, images[:2])
        weight = max(_activation_bytes(model, laid_out(images[:1], False)), images[0].numel() * images.element_size())
    on_cpu = images.device.type == "cpu"
    if not isinstance(model, nn.Module) or not hookable(model):  # its activations cannot be seen
        return Plan(batch_size or 64, channels_last)
    return Plan(batch_size or _fitting(weight, on_cpu), channels_last, on_cpu and weight < SMALL)


def laid_out(points: Tensor, channels_last: bool) -> Tensor:
    """A copy of `points`, channels-last if asked (also where one channel makes both layouts look alike)."""
    if not channels_last or points.dim() != 4:
        return points.clone(memory_format=torch.contiguous_format)
    _, c, h, w = points.shape
    strides = (c * h * w, 1, w * c, c)
    return torch.empty_strided(points.shape, strides, dtype=points.dtype, device=points.device).copy_(points)


def _takes_channels_last(model: Model, images: Tensor) -> bool:
    """Convolutions run faster channels-last; a model that calls `.view` on such a tensor fails, and keeps NCHW."""
    has_convolution = isinstance(model, nn.Module) and any(isinstance(m, nn.Conv2d) for m in model.modules())
    if images.dim() != 4 or not has_convolution:
        return False
    plain = logits_of(model, laid_out(images, False))
    if not bool(plain.isfinite().all()):
        return False  # nothing to compare; whoever asks the model says what is wrong with it
    try:
        fast = logits_of(model, laid_out(images, True))
    except SparringError:
        return False
    return torch.allclose(plain, fast, rtol=1e-3, atol=1e-4 * float(plain.abs().max().clamp_min(1e-12)))


def _fitting(bytes_per_image: int, on_cpu: bool) -> int:
    if on_cpu:
        fitting = max(8, min(32, CPU_MOST // bytes_per_image), min(512, CPU_TARGET // bytes_per_image))
    else:
        fitting = max(8, min(4096, GPU_TARGET // bytes_per_image))
    return int(2 ** (fitting.bit_length() - 1))


def _activation_bytes(model: Model, image: Tensor) -> int:
    if not isinstance(model, nn.Module) or not hookable(model):
        return 0
    total = 0

    def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    leaves = [module for module in model.modules() if not any(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        logits_of(model, image)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def give_memory_back() -> None:
    """Return to the system what large batches left in the C library's heap, which otherwise keeps growing over many of
    them. Does something only where the C library is glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
