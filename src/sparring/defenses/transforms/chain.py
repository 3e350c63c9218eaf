"""Several transforms, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sparring.defenses.transforms.base import Transform
from sparring.errors import InputError
from sparring.rng import Streams


@dataclass(frozen=True, kw_only=True)
class Chain(Transform):
    """The transforms of `parts`, the first one first; as text `bit_depth:bits=3+median`.

    It is random if one of its parts is, and offers the weakest gradient among theirs.
    """

    parts: tuple[Transform, ...] = field(kw_only=False)

    def __post_init__(self) -> None:
        given: Any = self.parts
        if not isinstance(given, (tuple, list)) or not given or not all(isinstance(p, Transform) for p in given):
            raise InputError(f"parts must be transforms, such as Chain((JPEG(), Median())), got {given!r}")
        flat = tuple(q for p in given for q in (p.parts if isinstance(p, Chain) else (p,)))
        object.__setattr__(self, "parts", flat)
        object.__setattr__(self, "random", any(part.random for part in flat))
        offered = {part.gradient for part in flat}
        weakest = "exact" if offered == {"exact"} else "identity" if offered == {"identity"} else "surrogate"
        object.__setattr__(self, "gradient", weakest)

    def draw(self, images: Tensor, streams: Streams) -> list[Any]:
        """What each part draws, in order."""
        return [part.draw(images, streams) for part in self.parts]

    def run(self, images: Tensor, drawn: Any) -> Tensor:
        """One after the other."""
        for part, own in zip(self.parts, drawn, strict=True):
            images = part.run(images, own)
        return images

    def passed(self, images: Tensor, drawn: Any, gradient: str = "declared") -> Tensor:
        """Each part with its own gradient."""
        for part, own in zip(self.parts, drawn, strict=True):
            images = part.passed(images, own, gradient)
        return images
