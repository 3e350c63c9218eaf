"""What happens to an image that detectors flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparring.attacks.base import at_least, checked_choice
from sparring.defenses.transforms import Transform
from sparring.errors import InputError

ACTIONS = ("accept", "purify", "review", "reject")
"""Answered as if nothing were; answered with the purified image's label; sent to a person; refused with a generic
error. The last two withhold the answer.
"""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is done with an image that at least `quorum` detectors flag: one of the `ACTIONS`.

    purifier: for "purify", the transforms whose result the model is asked about instead.
    """

    flagged: str = "reject"
    quorum: int = 1
    purifier: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        checked_choice("flagged", self.flagged, ACTIONS)
        at_least("quorum", self.quorum, 1, whole=True)
        given: Any = self.purifier
        if not isinstance(given, (tuple, list)) or not all(isinstance(t, Transform) for t in given):
            raise InputError(f"purifier must be transforms, such as (JPEG(quality=75),), got {given!r}")
        if bool(given) != (self.flagged == "purify"):
            raise InputError('flagged="purify" and purifier belong together: give both or neither')
        object.__setattr__(self, "purifier", tuple(given))

    @property
    def withholds(self) -> bool:
        """Whether a flagged image goes without an answer."""
        return self.flagged in ("review", "reject")
