"""The sticker: one printable patch that makes any picture the target class wherever it is stuck (Brown et al. 2017).

arXiv:1712.09665; the expectation over transformations is Athalye et al. 2018 (arXiv:1707.07397).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring import losses
from sparring.attacks.base import at_least
from sparring.batching import laid_out, plan
from sparring.errors import InputError
from sparring.estimate import Estimate, clustered_proportion
from sparring.files import write_whole
from sparring.goal import Targeted
from sparring.losses import Loss
from sparring.model import Model, frozen_eval, logits_of
from sparring.perturbations.placement import Placements, Placing, half_side, paint
from sparring.perturbations.printing import primaries, printed
from sparring.problem import check_classes, check_images
from sparring.threat import checked_bounds


@dataclass(frozen=True, eq=False)
class Sticker:
    """`picture` (C, h, w) in the box of the images, on the grid of 8 bits; `shape` "square" or "circle"; at the scale 1
    it covers the share `area` of a picture. `placing` says where it was trained to be stuck.
    """

    picture: Tensor
    shape: str
    area: float
    placing: Placing
    bounds: tuple[float, float] = (0.0, 1.0)

    def apply(self, images: Tensor, placements: Placements) -> Tensor:
        """`images` (N, C, H, W), each with the sticker at its place (N of them)."""
        if len(images) != len(placements):
            raise InputError(f"{len(placements)} places for {len(images)} images: give one per image")
        return paint(images, self.picture.to(images), placements, area=self.area, shape=self.shape)

    def success(
        self,
        model: Model,
        images: Tensor,
        *,
        target: int,
        placements: int = 200,
        placing: Placing | None = None,
        seed: int = 1,
    ) -> Estimate:
        """Share of at least `placements` random places, spread evenly over `images`, at which `model` says `target`.

        The interval is clustered by image: many places on one photograph say little about other photographs. Images
        that are the target already are left out. placing: where to stick it; as in training if None.
        Raises `InputError` where no image is left.
        """
        hits, trials = self.tried(model, images, target=target, placements=placements, placing=placing, seed=seed)
        return clustered_proportion(hits, trials)

    def tried(
        self,
        model: Model,
        images: Tensor,
        *,
        target: int,
        placements: int,
        placing: Placing | None = None,
        seed: int = 1,
    ) -> tuple[list[int], list[int]]:
        """Successes and trials of every image that is not the target already. Arguments and errors as `success`."""
        check_images(images, self.bounds)
        at_least("placements", placements, 1, whole=True)
        generator = torch.Generator().manual_seed(seed)
        size = plan(model, images).batch_size
        with frozen_eval(model), torch.no_grad():
            clean = torch.cat([logits_of(model, images[i : i + size]).argmax(1) for i in range(0, len(images), size)])
            others = images[clean != target]
            if len(others) == 0:
                raise InputError(f"the model takes every image for class {target} already: nothing is left to fool")
            each = -(-placements // len(others))
            hits = []
            for image in others:
                where = (placing or self.placing).draw(each, generator)
                parts = [where[i : i + size] for i in range(0, each, size)]
                stuck = (self.apply(image.expand(len(part), -1, -1, -1), part) for part in parts)
                hits.append(sum(int((logits_of(model, points).argmax(1) == target).sum()) for points in stuck))
        return hits, [each] * len(others)

    def save(self, path: str | Path) -> None:
        """Write the sticker as a PNG file, without loss; around a circle it is transparent."""
        low, high = self.bounds
        colours = ((self.picture - low) / (high - low) * 255).round().byte().cpu()
        y, x = (torch.linspace(-1, 1, side + 1)[:-1] + 1 / side for side in colours.shape[1:])
        inside = torch.ones(colours.shape[1:]) if self.shape == "square" else y[:, None] ** 2 + x**2 <= 1
        layers = torch.cat([colours.expand(3, -1, -1), (inside * 255).byte()[None]])
        Image.fromarray(np.ascontiguousarray(layers.permute(1, 2, 0).numpy()), "RGBA").save(path, "PNG")
