"""Which images an ascent cannot solve in the steps that remain: most of the time of an attack goes to those."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOW = 5
"""Steps over which the pace of the margin is watched."""
SAFETY = 5.0
"""How many times its fastest recent pace the margin is given for every step that remains."""


class Outlook:
    """Follows the margin of every image along the steps of an ascent through a ball of radius `reach`.

    An image is hopeless when its smallest margin so far is larger than SAFETY times what the remaining steps would
    take off it at the largest change per unit of step length of the last WINDOW steps; where the changes grow (on the
    way out of a saturated region the margin falls ever faster), they go on growing by the same factor. Changes
    count in either direction. A margin that stood still says nothing (rounded activations), and neither does one
    before the steps, laid end to end, reached across the ball: both are no reason to leave.
    """

    def __init__(self, step_sizes: Sequence[float], reach: float) -> None:
        self._sizes = list(step_sizes)
        self._reach = reach
        self._changes: list[Tensor] = []
        self._last: Tensor | None = None
        self._smallest: Tensor | None = None

    def hopeless(self, step: int, margins: Tensor) -> Tensor:
        """Bool (M,): no use going on after `step` steps, with `margins` (M,) > 0 where the goal is not met."""
        if self._last is None or self._smallest is None:
            self._last = self._smallest = margins
            return torch.zeros_like(margins, dtype=torch.bool)
        self._changes.append((margins - self._last).abs() / max(self._sizes[step - 1], 1e-30))
        self._changes = self._changes[-WINDOW:]
        self._last, self._smallest = margins, torch.minimum(self._smallest, margins)
        if len(self._changes) < WINDOW or sum(self._sizes[:step]) < self._reach:
            return torch.zeros_like(margins, dtype=torch.bool)
        pace = torch.stack(self._changes).amax(0)
        return (self._smallest > SAFETY * pace * self._lengths_ahead(step)) & (pace > 0)

    def _lengths_ahead(self, step: int) -> Tensor:
        """The steps that remain, added up, each weighted by how much faster the margin should fall by then, (M,)."""
        early, late = (torch.stack(part).amax(0) for part in (self._changes[:2], self._changes[-2:]))
        growth = (late / early.clamp_min(1e-30)).clamp(1, 1e6) ** (1 / (WINDOW - 2))
        ahead = torch.tensor(self._sizes[step:], dtype=growth.dtype, device=growth.device)
        powers = torch.arange(1, len(ahead) + 1, device=growth.device)
        return (growth[:, None] ** powers * ahead).sum(1).nan_to_num(posinf=torch.finfo(growth.dtype).max)

    def select(self, keep: Tensor) -> None:
        """Forget the images where `keep` (M,) is false."""
        if self._last is not None and self._smallest is not None:
            self._last, self._smallest = self._last[keep], self._smallest[keep]
        self._changes = [change[keep] for change in self._changes]
