"""Ten common corruptions after Hendrycks & Dietterich (2019, arXiv:1903.12261), for pictures of any size.

Strengths at severities 1 to 5 are those of the paper's ImageNet-C; lengths in pixels, meant for 224 x 224, are scaled
with the shorter side. The recipes work on images (N, C, H, W) in [0, 1] and are our own, so that figures are comparable
in kind, not to the digit. Left out of the paper's fifteen: glass, zoom, snow, frost, elastic.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sparring.rng import Streams

Recipe = Callable[[Tensor, int, Streams], Tensor]


def gaussian_noise(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """Normal noise on every value."""
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1] * streams.normal(x.shape[1:], x)


def shot_noise(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """Poisson noise: every value counts photons, 60 down to 3 for white."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    draws = streams.uniform(x.shape[1:], x)
    mean = x * photons
    share = (-mean).exp()
    below, count = share.clone(), torch.zeros_like(x)
    for k in range(1, photons + 10 * math.isqrt(photons) + 10):  # invert the distribution function
        count += draws >= below
        share = share * mean / k
        below += share
    return count / photons


def impulse_noise(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """Salt and pepper: some values become white or black, half of them each."""
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    draws = streams.uniform(x.shape[1:], x)
    salted = torch.where(draws > 1 - amount / 2, torch.ones_like(x), x)
    return torch.where(draws < amount / 2, torch.zeros_like(x), salted)


def defocus_blur(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """The mean over a disc around every pixel."""
    del streams
    radius = (3, 4, 6, 8, 10)[severity - 1] * _scale(x)
    ticks = (torch.arange(48, dtype=torch.float64) + 0.5) / 24 - 1
    points = torch.cartesian_prod(ticks, ticks)
    points = points[points.square().sum(1) <= 1] * radius
    return _filtered(x, points.expand(len(x), -1, -1), torch.ones(len(points), dtype=torch.float64))


def motion_blur(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """The mean along a line to one side, fading away, at an angle drawn from -45 to 45 degrees."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    along = torch.linspace(0, 2 * radius, 128, dtype=torch.float64)
    angle = (streams.uniform((1,), x).double().cpu() - 0.5) * (math.pi / 2)
    points = torch.stack([angle.cos() * along, angle.sin() * along], 2) * _scale(x)
    return _filtered(x, points, torch.exp(-(along**2) / (2 * sigma**2)))


def brightness(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """More light: the largest channel grows (HSV's value), the others in proportion."""
    del streams
    value = x.amax(1, keepdim=True)
    brighter = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clamp_max(1)
    return torch.where(value > 0, x * (brighter / value.clamp_min(1e-12)), brighter)


def contrast(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """Every channel drawn towards its mean."""
    del streams
    mean = x.mean((2, 3), keepdim=True)
    return mean + (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] * (x - mean)


def fog(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """A cloud of random lattices, each twice as fine and 1.4 to 2 times as faint as the one before, on the picture."""
    thickness, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    cloud = torch.zeros_like(x[:, :1])
    for octave in range(max(1, math.ceil(math.log2(max(x.shape[2:]))))):
        lattice = streams.uniform((1, 2**octave + 1, 2**octave + 1), x) / decay**octave
        cloud += functional.interpolate(lattice, x.shape[2:], mode="bilinear", align_corners=True)
    cloud -= cloud.amin((2, 3), keepdim=True)
    cloud /= cloud.amax((2, 3), keepdim=True).clamp_min(1e-12)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + thickness * cloud) * brightest / (brightest + thickness)


def jpeg(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """Saved as a JPEG file and read again; channels one by one, unless they are three."""
    del streams
    quality = (25, 18, 15, 10, 7)[severity - 1]
    planes = x.permute(0, 2, 3, 1) if x.shape[1] == 3 else x.flatten(0, 1)
    pictures = (planes.clamp(0, 1) * 255).round().byte().cpu().numpy()
    saved = torch.from_numpy(np.stack([_through_jpeg(picture, quality) for picture in pictures])).to(x) / 255
    return saved.permute(0, 3, 1, 2).contiguous() if x.shape[1] == 3 else saved.view_as(x)


def pixelate(x: Tensor, severity: int, streams: Streams) -> Tensor:
    """Scaled down, and up again as squares."""
    del streams
    factor = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    small = [max(1, round(side * factor)) for side in x.shape[2:]]
    return functional.interpolate(functional.interpolate(x, small, mode="area"), x.shape[2:], mode="nearest-exact")


RECIPES: dict[str, Recipe] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "motion_blur": motion_blur,
    "brightness": brightness,
    "contrast": contrast,
    "fog": fog,
    "jpeg": jpeg,
    "pixelate": pixelate,
}
"""Name to recipe: noise, blur, weather, digital."""


def _scale(x: Tensor) -> float:
    return min(x.shape[2:]) / 224


def _filtered(x: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of each picture's linear interpolation at `points` (N, P, 2; x, y) around every pixel."""
    reach = max(1, math.ceil(float(points.abs().max()))) if points.numel() else 1
    ticks = torch.arange(-reach, reach + 1, dtype=torch.float64)
    tents = (1 - (points[..., None] - ticks).abs()).clamp_min(0)  # (N, P, 2, ticks)
    kernels = torch.einsum("p,npi,npj->nij", weights / weights.sum(), tents[:, :, 1], tents[:, :, 0])
    n, c, height, width = x.shape
    wide = functional.pad(x, [reach] * 4, mode="replicate").reshape(1, n * c, height + 2 * reach, width + 2 * reach)
    return functional.conv2d(wide, kernels.to(x).repeat_interleave(c, 0)[:, None], groups=n * c).view_as(x)


def _through_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))
