"""All clients at once: their streams, what many of them do together, and drift, which is no attack."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from sparring.guard.watch.crowd import Crowd
from sparring.guard.watch.drift import Drift
from sparring.guard.watch.profile import Profile
from sparring.guard.watch.stream import Seen, Stream

CLIENTS = 1000
"""Clients that are remembered; who was away longest is forgotten first."""
IDLE = 3600.0
"""Seconds after which a client's evidence is forgotten."""
CEILING = 2.0
"""Evidence is kept up to this many times the alarm, so that it can also fade."""
EVERYONE = "everyone"


@dataclass(frozen=True)
class Alarm:
    """Evidence of one kind against one client, `EVERYONE`, or a "crowd-N" of clients, and what it takes."""

    kind: str
    client: str
    evidence: float
    limit: float


class Watcher:
    """Follows every client against a calibrated profile. Safe to call from several threads."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.streams: OrderedDict[str, Stream] = OrderedDict()
        self.crowd, self.drift = Crowd(), Drift(profile.limits)
        self._lock = threading.Lock()

    def observe(self, client: str, images: Sequence[Seen], now: float) -> list[Alarm]:
        """Take in what a client sent, in order; the alarms that stand against it afterwards."""
        with self._lock:
            stream = self._stream(client, now)
            alarms: dict[tuple[str, str], Alarm] = {}
            for seen in images:
                self._one(client, stream, seen, now, alarms)
            if self.drift.shifted:
                alarms["drift", EVERYONE] = Alarm("drift", EVERYONE, self.drift.level, 1.0)
        return list(alarms.values())

    def evidence(self, client: str) -> dict[str, float]:
        """What has gathered against a client, by kind."""
        with self._lock:
            stream = self.streams.get(client)
            return {} if stream is None else dict(stream.evidence)

    def _one(self, client: str, stream: Stream, seen: Seen, now: float, alarms: dict[tuple[str, str], Alarm]) -> None:
        limits = self.profile.limits
        signs = stream.observe(seen, limits)
        self.drift.take(client, signs)
        self._count(client, stream, signs, alarms)
        shared = self.crowd.find(client, seen, limits, now)
        if shared is not None:
            name, together = shared
            self._count(name, together, together.observe(seen, limits), alarms)

    def _count(self, who: str, stream: Stream, signs: dict[str, bool], alarms: dict[tuple[str, str], Alarm]) -> None:
        stream.add(signs, self.profile.limits, self.drift.rates)
        for kind, limit in self.profile.alarms.items():
            value = stream.evidence[kind]
            if value > limit:
                stream.evidence[kind] = min(value, CEILING * limit)
                alarms[kind, who] = Alarm(kind, who, value, limit)

    def _stream(self, client: str, now: float) -> Stream:
        stream = self.streams.pop(client, None)
        if stream is None or now - stream.last > IDLE:
            stream = Stream()
        stream.last = max(stream.last, now)
        self.streams[client] = stream
        if len(self.streams) > CLIENTS:
            self.streams.popitem(last=False)
        return stream
