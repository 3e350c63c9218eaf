"""Where a training run is, and how long it will still take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingProgress:
    """Step `step` of `steps`, epoch `epoch` of `epochs`. robust: the watch's last PGD-10 accuracy, None before it,
    on `watched` images at the budget `eps` of that moment.

    seconds_left: of training and watching, not of the final audit, from what this process has measured; None until it
    has. ended: an epoch is over, watch and all; note: what the watch had to say.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    robust: float | None
    seconds_left: float | None
    note: str = ""
    ended: bool = False
    eps: float | None = None
    watched: int = 0


class Clock:
    """Measures steps and watches, and adds up what is left."""

    def __init__(self) -> None:
        self._steps, self._watches = [0, 0.0], [0, 0.0]

    def stepped(self, seconds: float) -> None:
        """A step took `seconds`."""
        self._steps = [self._steps[0] + 1, self._steps[1] + seconds]

    def watched(self, seconds: float) -> None:
        """A look of the watch took `seconds`."""
        self._watches = [self._watches[0] + 1, self._watches[1] + seconds]

    def left(self, steps: int, watches: int) -> float | None:
        """Seconds that so many steps and watches will take."""
        if not self._steps[0]:
            return None
        per_step = self._steps[1] / self._steps[0]
        per_watch = self._watches[1] / self._watches[0] if self._watches[0] else 0.0
        return steps * per_step + watches * per_watch
