"""The sticker: one printable patch that makes any picture the target class wherever it is stuck (Brown et al. 2017).

arXiv:1712.09665; the expectation over transformations is Athalye et al. 2018 (arXiv:1707.07397).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring import losses
from sparring.attacks.ascent import step_schedule
from sparring.attacks.base import at_least
from sparring.batching import laid_out, plan
from sparring.errors import InputError
from sparring.estimate import Estimate, clustered_proportion
from sparring.files import write_whole
from sparring.goal import Targeted
from sparring.model import Model, frozen_eval, logits_of
from sparring.perturbations.base import check_pictures
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
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(layers.permute(1, 2, 0).numpy())).save(stream, "PNG")
        write_whole(Path(path), stream.getvalue())


def train_sticker(
    model: Model,
    photographs: Tensor,
    target: int,
    *,
    area: float = 0.1,
    shape: str = "circle",
    placing: Placing | None = None,
    printable: bool = True,
    steps: int = 250,
    batch_size: int = 8,
    step_size: float = 0.3,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Sticker:
    """A sticker that makes `model` say `target` on `photographs` (N, C, H, W), and on others, wherever it is stuck.

    Every step sticks it on `batch_size` photographs at random places of `placing` and lowers the mean cross-entropy
    of the target (Brown et al.) by Adam, whose steps start at `step_size` of the full range of an ink and shrink along
    a cosine. What is optimised are the shares that the inks cover, so that every colour on the way can be printed;
    not `printable`: any colour of the box. Photographs that still resist are drawn more often. area: the largest share
    of a picture that it covers. A few photographs do, as different as those it will be stuck on. Raises `InputError`
    for unusable input.
    """
    box, placing = checked_bounds(bounds), placing or Placing()
    _check(photographs, box, steps=steps, batch_size=batch_size, step_size=step_size, seed=seed, target=target)
    half = half_side(area, shape, photographs.shape[2:])
    if not 0 < area <= 1 or half < 0.5:
        raise InputError(f"area is a share of the picture and must hold at least a few pixels, got {area!r}")
    generator, colours = torch.Generator().manual_seed(seed), primaries(photographs.shape[1], printable).to(photographs)
    inks, side = len(colours).bit_length() - 1, math.ceil(2 * half)
    start = 0.45 + 0.1 * torch.rand(inks, side, side, generator=generator)  # a faint pattern on mid grey
    coverage = start.to(photographs).requires_grad_()
    mean, square = torch.zeros_like(start).to(photographs), torch.zeros_like(start).to(photographs)
    hard = torch.full((len(photographs),), 10.0, dtype=torch.float64)  # how far each is from the target, lately
    how = plan(model, photographs, batch_size)
    with frozen_eval(model), how.running(), torch.enable_grad():
        for step, size in enumerate(step_schedule("cosine", step_size, steps), start=1):
            rows = torch.multinomial(hard + hard.mean() / 4, batch_size, True, generator=generator)
            places = placing.draw(batch_size, generator)
            picture = _shown(coverage, colours, box)
            points = paint(photographs[rows.to(photographs.device)], picture, places, area=area, shape=shape)
            logits = logits_of(model, laid_out(points, how.channels_last))
            goal = Targeted(torch.full((batch_size,), target, device=logits.device))
            check_classes(goal, logits.shape[1])
            misses = -losses.cross_entropy(logits, goal)
            (grad,) = torch.autograd.grad(misses.sum(), coverage)
            hard[rows] = (hard[rows] + misses.detach().double().cpu().nan_to_num(nan=0.0).clamp(1e-6, 1e6)) / 2
            mean = torch.lerp(grad.nan_to_num(nan=0.0), mean, 0.9)
            square = torch.lerp(grad.nan_to_num(nan=0.0).square(), square, 0.999)
            move = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
            coverage = (coverage.detach() - size * move).clamp_(0, 1).requires_grad_()
    return Sticker(_shown(coverage.detach(), colours, box, steps=255), shape, area, placing, box)


def _shown(coverage: Tensor, colours: Tensor, box: tuple[float, float], steps: int | None = None) -> Tensor:
    """The colours (C, side, side) in the box; on a grid of `steps`, where a saved sticker is to be the measured one."""
    seen = printed(coverage, colours)
    if steps is not None:
        seen = (seen.clamp(0, 1) * steps).round() / steps
    return box[0] + (box[1] - box[0]) * seen


def _check(photographs: Tensor, box: tuple[float, float], **numbers: float) -> None:
    check_images(photographs, box)
    check_pictures(photographs)
    for name, number in numbers.items():
        at_least(name, number, 1 if name in ("steps", "batch_size") else 0, whole=name != "step_size")
