"""Windows of an image, and the bumps that Square Attack paints in them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Canvas:
    """Images of any shape seen as (channels, height, width), and the rectangle of them in which something may change.

    The rectangle begins at (`top`, `left`) and is `tall` x `broad`: the whole image, or what a mask leaves of it.
    """

    channels: int
    height: int
    width: int
    top: int
    left: int
    tall: int
    broad: int

    @classmethod
    def of(cls, images: Tensor, threat: ThreatModel) -> Canvas:
        """The canvas of a batch; it follows from the images' shape and the mask alone."""
        *many, height, width = (1, 1, *images.shape[1:])
        channels = math.prod(many)
        if threat.mask is None:
            return cls(channels, height, width, 0, 0, height, width)
        open_ = threat.mask_for(images).reshape(channels, height, width).any(0)
        rows, columns = (open_.any(axis).nonzero().flatten().tolist() or [0, -1] for axis in (1, 0))
        top, left = rows[0], columns[0]
        return cls(channels, height, width, top, left, rows[-1] - top + 1, columns[-1] - left + 1)

    def seen(self, flat: Tensor) -> Tensor:
        """`flat` (N, ...) as (N, channels, height, width)."""
        return flat.reshape(len(flat), self.channels, self.height, self.width)

    def sides(self, share: float, least: int = 1) -> tuple[int, int]:
        """Height and width of a window that covers `share` of the rectangle: a square where that fits."""
        area = share * self.tall * self.broad
        side = max(round(math.sqrt(area)), least)
        if side > self.tall:
            return self.tall, min(self.broad, max(round(area / self.tall), least))
        if side > self.broad:
            return min(self.tall, max(round(area / self.broad), least)), self.broad
        return side, side

    def place(self, draws: Tensor, sides: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Top and left (N,) of windows, uniform over the rectangle; `draws` (N, 2) in [0, 1)."""
        free = (self.tall - sides[0], self.broad - sides[1])
        top, left = ((draws[:, i] * (free[i] + 1)).long().clamp_max(free[i]) for i in (0, 1))
        return top + self.top, left + self.left

    def inside(self, corner: tuple[Tensor, Tensor], sides: tuple[int, int]) -> Tensor:
        """Bool (N, 1, height, width): the window of each image."""
        covers = []
        for first, side, size in zip(corner, sides, (self.height, self.width), strict=True):
            offset = torch.arange(size, device=first.device) - first[:, None]
            covers.append((offset >= 0) & (offset < side))
        return covers[0][:, None, :, None] & covers[1][:, None, None, :]

    def indices(self, corner: tuple[Tensor, Tensor], sides: tuple[int, int]) -> Tensor:
        """The window's pixels (N, channels, S) as places in the flattened picture, row by row."""
        rows, columns = (
            first[:, None] + torch.arange(side, device=first.device) for first, side in zip(corner, sides, strict=True)
        )
        flat = (rows[:, :, None] * self.width + columns[:, None, :]).flatten(1)
        return flat[:, None].expand(-1, self.channels, -1)


@functools.cache
def bump(height: int, width: int, power: int) -> Tensor:
    """Two hills of opposite sign, one above the other, ‖·‖_power = 1, float32 (height, width).

    A hill falls off in square rings: at ring r, the sum of 1/(k + 1)^2 (l1: to the 4th) over k >= r.
    """
    if height < 2:
        return _hill(height, width, power)
    upper = height // 2
    return _unit(torch.cat([_hill(upper, width, power), -_hill(height - upper, width, power)]), power)


def _hill(height: int, width: int, power: int) -> Tensor:
    rings = max(height, width) // 2 + 1
    falls = 1 / torch.arange(1, rings + 1, dtype=torch.float64) ** (2 if power == 2 else 4)
    summed = falls.flip(0).cumsum(0).flip(0)
    rows, columns = ((torch.arange(size) - size // 2).abs() for size in (height, width))
    hill = summed[torch.maximum(rows[:, None], columns[None, :])]
    return _unit(hill, power).float()


def _unit(hill: Tensor, power: int) -> Tensor:
    return hill / hill.abs().pow(power).sum() ** (1 / power)
