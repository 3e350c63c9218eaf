"""A two-sample test for a window of traffic: maximum mean discrepancy (Gretton et al. 2012; Grosse et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.defenses.saving import read, write
from sparring.defenses.transforms.base import checked
from sparring.errors import DataError, InputError


@dataclass(frozen=True, kw_only=True)
class MMD:
    """Does a window of images come from where the clean images came from? Knows nothing of the model, and says nothing
    about any single image.

    permutations: of clean and window images, which give the p-value (Grosse et al. 2017, arXiv:1702.06280). most: clean
    images kept.
    """

    permutations: int = 500
    most: int = 500

    def __post_init__(self) -> None:
        at_least("permutations", self.permutations, 19, whole=True)
        at_least("most", self.most, 10, whole=True)

    def fit(self, images: Tensor, *, seed: int = 0) -> FittedMMD:
        """Keeps clean images (N, C, H, W) and chooses the kernel's width: the median distance between them."""
        checked(images)
        if len(images) < 10:
            raise InputError(f"a reference of {len(images)} images is too small: give at least 10")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        kept = images[order[: self.most]].detach().clone()
        width = float(torch.pdist(kept.flatten(1).double()).median().clamp_min(1e-9))
        return FittedMMD(self, kept, width, seed)


@dataclass(frozen=True, eq=False)
class FittedMMD:
    """What `MMD.fit` returns: clean images and the width of the Gaussian kernel."""

    test: MMD
    reference: Tensor
    width: float
    seed: int

    def p_value(self, window: Tensor) -> float:
        """The share of permutations, the given order counted in, whose discrepancy is at least that of the window.

        Where the window is exchangeable with the reference, the p-value is at most a with probability at most a.
        Raises `InputError` for images of another shape and for fewer than 2.
        """
        checked(window)
        if window.shape[1:] != self.reference.shape[1:]:
            raise InputError(f"images of shape {tuple(window.shape[1:])}, expected {tuple(self.reference.shape[1:])}")
        if len(window) < 2:
            raise InputError("a window needs at least 2 images")
        rows = torch.cat([self.reference.to(window), window.detach()]).flatten(1).double()
        kernel = torch.exp(-torch.cdist(rows, rows).square() / (2 * self.width**2))
        n, generator = len(rows), torch.Generator().manual_seed(self.seed)
        orders = torch.stack([torch.randperm(n, generator=generator) for _ in range(self.test.permutations)])
        inside = torch.zeros(self.test.permutations + 1, n, dtype=torch.float64)
        inside[0, len(self.reference) :] = 1
        inside[1:].scatter_(1, orders[:, : len(window)], 1.0)
        found = _discrepancies(kernel.cpu(), inside)
        return float((found >= found[0] - 1e-12).double().mean())

    def save(self, path: str | Path) -> Path:
        """Write it to `path`, without pickle."""
        facts = {"permutations": self.test.permutations, "most": self.test.most, "width": self.width, "seed": self.seed}
        return write(Path(path), "window test", {"reference": self.reference}, facts)


def load_mmd(path: str | Path) -> FittedMMD:
    """Read what `FittedMMD.save` wrote. Raises `DataError` for anything else."""
    arrays, facts = read(Path(path), "window test")
    try:
        test = MMD(permutations=int(facts["permutations"]), most=int(facts["most"]))
        return FittedMMD(test, arrays["reference"], float(facts["width"]), int(facts["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not describe a window test ({error}): fit and save it again") from error


def _discrepancies(kernel: Tensor, inside: Tensor) -> Tensor:
    """The biased estimate of MMD² between the rows marked 1 and the rest, for each way of marking (P, n)."""
    ones, others = inside / inside.sum(1, keepdim=True), (1 - inside) / (1 - inside).sum(1, keepdim=True)
    weights = ones - others
    return ((weights @ kernel) * weights).sum(1)
