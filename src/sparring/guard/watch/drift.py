"""Drift: the same change in most clients at once. One attacker cannot move the median."""

from __future__ import annotations

from collections import OrderedDict
from statistics import median

from sparring.guard.watch.stream import Limits

FOLLOWED = ("low_margin", "rough", "flagged")
"""Signs that a change of season, camera or population brings, and that an attack brings too."""
CLIENTS, IMAGES = 5, 10
"""So many clients, with so many images each, are needed to speak of drift."""
EVERY = 50
"""Images after which the medians are taken again."""
REMEMBERED = 200
FORGET = 0.98
"""A client's rate follows its last fifty images or so."""
SHIFT = 2.0
"""How many times the calibrated rate the median must reach, and be at least 0.1 above it."""


class Drift:
    """Every client's own rate of each followed sign, and the median over clients."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.weights = limits.weights
        self.level = 0.0
        self._clients: OrderedDict[str, dict[str, list[float]]] = OrderedDict()
        self._until = EVERY

    @property
    def shifted(self) -> bool:
        """Is the traffic as a whole another than it was?"""
        return self.level > 1.0

    def take(self, client: str, signs: dict[str, bool]) -> None:
        """Note one image's signs."""
        if FOLLOWED[0] not in signs:  # they come together
            return
        own = self._clients.get(client)
        if own is None:
            own = self._clients[client] = {sign: [0.0, 0.0] for sign in FOLLOWED}
        for sign, rate in own.items():
            rate[0], rate[1] = FORGET * rate[0] + signs[sign], FORGET * rate[1] + 1
        self._clients.move_to_end(client)
        if len(self._clients) > REMEMBERED:
            self._clients.popitem(last=False)
        self._until -= 1
        if self._until <= 0:
            self._until = EVERY
            self._settle()

    def _settle(self) -> None:
        higher: dict[str, float] = {}
        self.level = 0.0
        for sign in FOLLOWED:
            known = [own[sign] for own in self._clients.values() if own[sign][1] >= IMAGES * 0.9]
            if len(known) < CLIENTS:
                continue
            now, before = median(shown / count for shown, count in known), self.limits.rates.get(sign, 0.0)
            if now > before:
                higher[sign] = now
            self.level = max(self.level, now / max(SHIFT * before, before + 0.1))
        self.weights = self.limits.drifted(higher) if higher else self.limits.weights
