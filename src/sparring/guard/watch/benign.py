"""Benign sessions made from pictures: single shots, and the near-duplicates that a camera makes of one scene."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

LENGTHS = (20, 200)


def sessions(
    images: Tensor, n: int, generator: torch.Generator, lengths: tuple[int, int] = LENGTHS
) -> Iterator[Tensor]:
    """`n` sessions of images like `images` (N, C, H, W): of every four, two of different images, one of a moving
    camera, one of a still one.
    """
    for number in range(n):
        length = int(torch.randint(lengths[0], lengths[1] + 1, (), generator=generator))
        if number % 2 == 0:
            yield images[torch.randperm(len(images), generator=generator)[:length]]
        else:
            yield video(images, length, generator, still=number % 4 == 1)


def scenes(images: Tensor, generator: torch.Generator, n: int = 300) -> Tensor:
    """Different images, about twice as many as a client's window holds."""
    return images[torch.randperm(len(images), generator=generator)[:n]]


def video(images: Tensor, frames: int, generator: torch.Generator, still: bool = False) -> Tensor:
    """Frames of scenes from `images`, as a hand-held or a still camera sees them, stored with 8 bits.

    The camera shifts, turns and zooms as a random walk, or trembles or swings about one place; the light wanders or
    fades; the sensor adds noise; now and then the scene changes.
    """
    parts, left = [], frames
    while left > 0:
        many = min(left, int(torch.randint(10, 120, (), generator=generator)))
        image = images[int(torch.randint(len(images), (), generator=generator))]
        parts.append(_scene(image[None], many, generator, still))
        left -= many
    return torch.cat(parts)


def _scene(image: Tensor, frames: int, generator: torch.Generator, still: bool) -> Tensor:
    speed = float(torch.rand((), generator=generator)) * (0.05 if still else 2)
    path = _path(frames, generator)
    if torch.rand((), generator=generator) < 0.25:
        path[:, 4] -= 50 * torch.rand((), generator=generator) * torch.linspace(0, 1, frames)
    path = path * torch.tensor([0.015, 0.015, 0.008, 0.01, 0.01]) * speed
    turn, zoom = path[:, 2], 1 + path[:, 3]
    moves = torch.zeros((frames, 2, 3))
    moves[:, 0, 0] = moves[:, 1, 1] = zoom * turn.cos()
    moves[:, 0, 1], moves[:, 1, 0] = -zoom * turn.sin(), zoom * turn.sin()
    moves[:, :, 2] = path[:, :2]
    grid = affine_grid(moves, [frames, *image.shape[1:]], align_corners=False)
    seen = grid_sample(image.expand(frames, -1, -1, -1), grid, padding_mode="border", align_corners=False)
    seen = seen * (1 + path[:, 4]).view(-1, 1, 1, 1)
    noise = float(torch.rand((), generator=generator)) * 0.02
    seen = seen + noise * torch.randn(seen.shape, generator=generator)
    return (seen.clamp(0, 1) * 255).round() / 255


def _path(frames: int, generator: torch.Generator) -> Tensor:
    """Five coordinates (frames, 5) over time: a walk, a tremble, or a swing that comes back to where it was."""
    kind = float(torch.rand((), generator=generator))
    path = torch.randn((frames, 5), generator=generator)
    if kind < 0.4:
        return path.cumsum(0)
    if kind < 0.6:
        return path
    period, reach = 3 + 40 * torch.rand(5, generator=generator), 8 * torch.rand(5, generator=generator)
    phase = 6.3 * torch.rand(5, generator=generator)
    return reach * torch.sin(6.283 * torch.arange(frames)[:, None] / period + phase) + 0.02 * path
