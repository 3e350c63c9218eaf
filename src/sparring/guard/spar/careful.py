"""An attacker who knows that streams are watched: hides among benign images, blurs the likeness of queries, and takes
refusals as a hint (Feng et al. 2023, OARS; Chen et al. 2020, query blinding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.guard.spar.remote import Remote

COVER = 3
"""Benign images sent between two queries, to begin with; each refusal adds one."""
NOISE = 0.03
"""Standard deviation of what is laid over each query, to begin with; each refusal adds a tenth."""
TREMBLE = 1
"""Pixels by which queries are shifted."""


@dataclass(eq=False)
class Careful(Remote):
    """A `Remote` whose queries are shifted, made noisy and hidden among benign images. Cover counts as queries too, and
    success counts only for the image as the attack meant it, asked for plainly once the blurred one was misclassified.
    """

    cover: Tensor | None = None
    _noise: float = NOISE
    _between: int = COVER

    def ask(self, image: Tensor) -> Tensor:
        """One query behind its cover."""
        generator = torch.Generator().manual_seed(self.queries)
        if self.cover is not None:
            for row in torch.randint(len(self.cover), (self._between,), generator=generator):
                self.queries += 1
                self._sent(self.cover[int(row)][None])
        before = self.refused
        shifted = torch.roll(image, torch.randint(-TREMBLE, TREMBLE + 1, (2,), generator=generator).tolist(), (2, 3))
        blurred = (shifted + self._noise * torch.randn(image.shape, generator=generator)).clamp(0, 1)
        found = self.success
        logits = super().ask(blurred)
        self.success = found  # the blurred image is not the one that was meant
        if self.refused > before:
            self._noise, self._between = 1.1 * self._noise, self._between + 1
        if int(logits.argmax()) != self.truth:
            return super().ask(image)
        return logits
