"""Randomised smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918): noise cannot change its mind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from sparring.batching import plan
from sparring.errors import InputError
from sparring.model import Model, frozen_eval, logits_of
from sparring.rng import Streams, digests

ABSTAIN = -1


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """g(x) = the class that f most often gives to x + N(0, sigma²).

    sigma: in units of the images; the paper's 0.25. n0: draws that choose the class, n: fresh draws that prove it, the
    paper's 100 and 100,000. alpha: the probability that a certificate is wrong, per image, 0.001. batch_size: noisy
    copies per call of the model, None for what suits it. Each image has a random stream of its own.
    """

    sigma: float = 0.25
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self.sigma > 0 or not 0 < self.alpha < 1:
            raise InputError(f"sigma must be > 0 and alpha between 0 and 1, got {self.sigma} and {self.alpha}")
        for name in ("n0", "n", "batch_size"):
            value = getattr(self, name)
            if value is None and name == "batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number >= 1, got {value!r}")

    @property
    def ceiling(self) -> float:
        """The radius where every draw agrees: no image can be shown to stand farther."""
        return self.sigma * NormalDist().inv_cdf(self.alpha ** (1 / self.n))

    def certify(
        self, model: Model, images: Tensor, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class (N,), -1 where it abstains, and l2 radius (N,) of every image, each right with probability 1 - alpha.

        progress: called with images done and their number.
        """
        from scipy.stats import binomtest

        found = torch.full((len(images),), ABSTAIN), torch.zeros(len(images), dtype=torch.float64)
        for i in range(len(images)):
            chosen, proved = self._counts(model, images[i : i + 1], seed)
            best = int(chosen.argmax())
            hits = int(proved[best])
            test = binomtest(hits, self.n, alternative="greater")
            p = float(test.proportion_ci(1 - self.alpha, method="exact").low)
            if p > 0.5:
                found[0][i] = best
                found[1][i] = self.sigma * NormalDist().inv_cdf(p)
            if progress is not None:
                progress(i + 1, len(images))
        return found

    def predict(self, model: Model, images: Tensor, *, seed: int = 0) -> Tensor:
        """Class (N,) from n draws, -1 where the two most frequent ones cannot be told apart at the level alpha."""
        from scipy.stats import binomtest

        said = []
        for i in range(len(images)):
            counts = self._drawn(model, images[i : i + 1], Streams(seed, "predict", digests(images[i : i + 1])), self.n)
            (first, second), order = counts.topk(2)
            sure = binomtest(int(first), int(first + second)).pvalue <= self.alpha
            said.append(int(order[0]) if sure else ABSTAIN)
        return torch.tensor(said)

    def _counts(self, model: Model, image: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Draws that choose, and independent ones that prove."""
        streams = Streams(seed, "smoothing", digests(image))
        return self._drawn(model, image, streams, self.n0), self._drawn(model, image, streams, self.n)

    def _drawn(self, model: Model, image: Tensor, streams: Streams, count: int) -> Tensor:
        """How often each class is given to `count` noisy copies of one image."""
        counts: Tensor | None = None
        with frozen_eval(model), torch.no_grad():
            most = self.batch_size or plan(model, image).batch_size
            for start in range(0, count, most):
                size = min(most, count - start)
                noise = streams.normal((size, *image.shape[1:]), image)[0]
                logits = logits_of(model, image + self.sigma * noise)
                here = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
                counts = here if counts is None else counts + here
        return torch.zeros(0) if counts is None else counts
