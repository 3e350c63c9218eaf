"""Where a sticker lies on a picture: position, size and rotation, drawn at random, and how it is painted there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import InputError, unknown

SHAPES = ("square", "circle")


@dataclass(frozen=True, eq=False)
class Placements:
    """One place per image, N in all. centre: (N, 2), x and y, 0 where the sticker touches the left or upper edge and 1
    where it touches the right or lower one. scale: (N,), its side as a share of the largest. angle: (N,), in radians.
    """

    centre: Tensor
    scale: Tensor
    angle: Tensor

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, part: slice) -> Placements:
        return Placements(self.centre[part], self.scale[part], self.angle[part])


@dataclass(frozen=True, kw_only=True)
class Placing:
    """The places a sticker may be stuck at: anywhere wholly inside the picture, with its side between `scale` (low,
    high) times the largest, turned by up to `rotation` degrees either way. x, y: ranges of the centre, (0, 1) for all.
    """

    scale: tuple[float, float] = (0.8, 1.0)
    rotation: float = 20.0
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name, (low, high), least in (("scale", self.scale, 1e-3), ("x", self.x, 0.0), ("y", self.y, 0.0)):
            if not least <= low <= high <= 1:
                raise InputError(f"{name} must be a range (low, high) within {least:g}..1, got ({low:g}, {high:g})")
        if not 0 <= self.rotation <= 180:
            raise InputError(f"rotation must lie in 0..180 degrees, got {self.rotation!r}")

    def draw(self, n: int, generator: torch.Generator) -> Placements:
        """`n` independent places, uniform within the ranges."""
        drawn = torch.rand(n, 4, generator=generator)
        turn = math.radians(self.rotation)
        lows = torch.tensor([self.x[0], self.y[0], self.scale[0], -turn])
        highs = torch.tensor([self.x[1], self.y[1], self.scale[1], turn])
        values = lows + (highs - lows) * drawn
        return Placements(values[:, :2], values[:, 2], values[:, 3])


def half_side(area: float, shape: str, size: Sequence[int]) -> float:
    """Half the side (the radius of a circle) in pixels of a sticker of which no place covers more than the share `area`
    of a picture of `size` (H, W): half a pixel less than the ideal figure, because pixels are covered whole.
    """
    if shape not in SHAPES:
        raise InputError(unknown("shape", shape, list(SHAPES)))
    pixels = area * size[0] * size[1]
    return max(0.0, (math.sqrt(pixels) if shape == "square" else 2 * math.sqrt(pixels / math.pi)) - 1) / 2


def paint(images: Tensor, picture: Tensor, placements: Placements, *, area: float, shape: str) -> Tensor:
    """`images` (N, C, H, W) with `picture` (C, h, w) stuck on each at its place; differentiable in `picture`.

    A pixel is covered wholly or not at all, by where its centre lies; colours are interpolated.
    """
    u = _sticker_coordinates(images, placements, half_side(area, shape, images.shape[2:]))
    inside = (u.abs().amax(3) <= 1) if shape == "square" else (u.square().sum(3) <= 1)
    spread = picture.expand(len(images), -1, -1, -1)
    colours = functional.grid_sample(spread, u, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside[:, None], colours, images)


def _sticker_coordinates(images: Tensor, placements: Placements, half: float) -> Tensor:
    """Where every pixel lies on its sticker: (N, H, W, 2), the sticker's edges at -1 and 1."""
    n, _, height, width = images.shape
    scale, angle, centre = (t.to(images) for t in (placements.scale, placements.angle, placements.centre))
    cos, sin = angle.cos(), angle.sin()
    reach = half * scale * (cos.abs() + sin.abs())  # of the turned square; a circle stays as far from the edge
    frame = images.new_tensor([width, height])
    free = (frame - 2 * reach[:, None]).clamp_min(0)
    middle = frame / 2 + (centre - 0.5) * free - frame / 2  # from the middle of the picture, in pixels
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    size = (half * scale).clamp_min(1e-6)[:, None, None]
    shift = -(rotation @ middle[:, :, None]) / size
    theta = torch.cat([rotation * (frame / 2) / size, shift], 2)
    return functional.affine_grid(theta, [n, 1, height, width], align_corners=False)
