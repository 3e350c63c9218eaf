"""Colours that a printer can print, by Neugebauer's equations (1937): the mean of what dots of ink look like.

A spot printed with dots of cyan, magenta and yellow shows eight colours side by side: bare paper, each ink, each
overprint of two, and all three. Its reflectance is their mean, weighted by the share that each covers if the dots lie
independently (Demichel 1924). So every mixture of inks is printable by construction, and differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

PROCESS_INKS = (
    (255, 255, 255),  # paper
    (0, 159, 227),  # cyan
    (230, 0, 126),  # magenta
    (49, 39, 131),  # cyan and magenta
    (255, 237, 0),  # yellow
    (0, 150, 64),  # cyan and yellow
    (227, 6, 19),  # magenta and yellow
    (29, 29, 27),  # all three, as dark as black ink
)
"""sRGB of the eight primaries of European offset printing on coated paper, as its usual colour profile gives them. For
your own printer, print the eight fields, photograph them and pass what you measure."""


def primaries(channels: int, printable: bool = True) -> Tensor:
    """Colours of all overprints, (2^inks, channels) in [0, 1], the first ink the fastest: three inks for colour
    pictures, black ink for grey ones. Not `printable`: the corners of the whole box, one ink per channel.
    """
    if printable and channels == 3:
        return torch.tensor(PROCESS_INKS) / 255
    if printable and channels == 1:
        return torch.tensor([[1.0], [28 / 255]])
    corners = torch.arange(2**channels)[:, None] >> torch.arange(channels)
    return 1.0 - (corners & 1).float()


def printed(coverage: Tensor, colours: Tensor) -> Tensor:
    """Colours (C, h, w) in sRGB of ink coverages (inks, h, w) in [0, 1], for the primaries `colours` (2^inks, C)."""
    weights = torch.ones_like(coverage[:1])
    for ink in coverage:
        weights = torch.cat([weights * (1 - ink), weights * ink])
    return to_srgb(torch.einsum("phw,pc->chw", weights, to_reflectance(colours.to(coverage))))


def to_reflectance(colours: Tensor) -> Tensor:
    """Linear light of sRGB values (IEC 61966-2-1)."""
    return torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055).clamp_min(0) ** 2.4)


def to_srgb(light: Tensor) -> Tensor:
    """The sRGB values of linear light."""
    safe = light.clamp_min(0.0031308)  # so that the branch not taken has a finite gradient
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * safe ** (1 / 2.4) - 0.055)
