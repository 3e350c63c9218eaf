"""What the wrappers share: attacks that change how another attack works. As text: `pgd:steps=40+eot:draws=16+grid`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparring.attacks.base import Attack
from sparring.attacks.pgd import PGD
from sparring.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Wrapper(Attack):
    """An attack around another, `attack`, whose norms and needs it shares. A subclass writes `run`, and its own fields.

    Being an attack, a wrapper can be wrapped again: `Grid(EOT(PGD(steps=40), draws=16))`.
    """

    attack: Attack = field(default=PGD(), kw_only=False)

    def __post_init__(self) -> None:
        given: object = self.attack
        if not isinstance(given, Attack):
            name = type(self).__name__
            raise InputError(f"attack must be an Attack, such as {name}(PGD()), as text pgd+eot; got {given!r}")
        object.__setattr__(self, "access", self.attack.access)
        object.__setattr__(self, "threats", self.attack.threats)
