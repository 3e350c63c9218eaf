"""One recorded operation about to become a layer, with what is known before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparring.certification.layers import Layer
from sparring.certification.tape import Ref, Step
from sparring.errors import UnsupportedError


@dataclass(frozen=True, eq=False)
class Reading:
    """A step about to become a layer, with what is known before it."""

    step: Step
    values: dict[int, Any]
    places: dict[tuple[int, int | None], int]
    layers: list[Layer]

    def known(self) -> bool:
        """All that it works on from the input has become layers."""
        return all((r.index, r.item) in self.places or r.index in self.values for r in _refs(self.step.args))

    def arg(self, i: int, default: Any = None) -> Any:
        """Argument `i`; a weight as its tensor, a layer's result as its place (an int wrapped in `Place`)."""
        return self.resolved(self.step.args[i]) if i < len(self.step.args) else default

    def resolved(self, thing: Any) -> Any:
        """See `arg`."""
        if isinstance(thing, Ref):
            if thing.index in self.values:
                value = self.values[thing.index]
                return value if thing.item is None else value[thing.item]
            return Place(self.places[thing.index, thing.item])
        if isinstance(thing, (list, tuple)):
            return [self.resolved(part) for part in thing]
        return thing

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one image's result."""
        return self.step.shape[1:]

    def before(self, place: int) -> tuple[int, ...]:
        """That of one image at an earlier layer."""
        return self.layers[place].shape

    def made(self, kind: type[Layer], inputs: tuple[int, ...], **fields: Any) -> Layer:
        """A layer at this step."""
        return kind(inputs, self.shape, self.step.where, **fields)

    def only(self, i: int = 0) -> int:
        """The place of argument `i`, which must come from the input; nothing else may."""
        place = self.arg(i)
        others = [self.arg(j) for j in range(len(self.step.args)) if j != i]
        if not isinstance(place, Place) or any(isinstance(other, Place) for other in others):
            raise UnsupportedError(f"{self.step.name.removeprefix('aten.')} of two things computed from the input")
        return place.index


@dataclass(frozen=True)
class Place:
    """Where an earlier layer stands."""

    index: int


def _refs(thing: Any) -> list[Ref]:
    if isinstance(thing, Ref):
        return [thing]
    return [ref for part in thing for ref in _refs(part)] if isinstance(thing, (list, tuple)) else []
