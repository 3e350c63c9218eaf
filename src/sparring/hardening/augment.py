"""Random changes to the images before they are attacked: crop, flip, cutout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparring.hardening.draws import Draws

Augmentation = Callable[[Tensor, Draws], Tensor]


def crop(images: Tensor, draws: Draws) -> Tensor:
    """Shifted by up to an eighth of the side, what comes in is black (He et al. 2016: 4 of 32 pixels)."""
    _, _, height, width = images.shape
    margin = max(1, height // 8)
    wide = pad(images, [margin] * 4)
    top, left = draws.integers(2 * margin + 1, (2,), images).unbind(1)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    return wide[_at(images), torch.arange(images.shape[1], device=images.device)[None, :, None, None], rows, columns]


def flip(images: Tensor, draws: Draws) -> Tensor:
    """Every other image mirrored left to right; not for digits."""
    mirrored = draws.integers(2, (1, 1, 1), images).bool()
    return torch.where(mirrored, images.flip(3), images)


def cutout(images: Tensor, draws: Draws) -> Tensor:
    """A square with half the side, its centre anywhere, in the image's mean (DeVries & Taylor 2017)."""
    _, _, height, width = images.shape
    half = max(1, height // 4)
    y, x = draws.integers(height, (1,), images), draws.integers(width, (1,), images)
    rows = (torch.arange(height, device=images.device) - y).abs() < half
    columns = (torch.arange(width, device=images.device) - x).abs() < half
    hole = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(hole, images.mean((1, 2, 3), keepdim=True), images)


AUGMENTATIONS: dict[str, Augmentation] = {"crop": crop, "flip": flip, "cutout": cutout}


def augmented(images: Tensor, names: Sequence[str], draws: Draws) -> Tensor:
    """The images after each augmentation in turn."""
    for name in names:
        images = AUGMENTATIONS[name](images, draws)
    return images


def _at(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device)[:, None, None, None]
