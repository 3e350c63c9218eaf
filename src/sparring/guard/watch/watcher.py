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
        self._least = min(profile.alarms.values())
        self._lock = threading.Lock()

    def observe(self, clients: Sequence[str], images: Sequence[Seen], now: float) -> list[Alarm]:
        """Take in images, in order, with the client that sent each; the alarms that stand afterwards."""
        with self._lock:
            alarms: dict[tuple[str, str], Alarm] = {}
            shared = self.crowd.find(clients, images, self.profile.limits, now)
            for client, rows in _grouped(clients).items():
                stream = self._stream(client, now)
                for row, signs in zip(
                    rows, stream.observe([images[i] for i in rows], self.profile.limits), strict=True
                ):
                    self.drift.take(client, signs)
                    self._count(client, stream, signs, alarms)
                    scene = shared[row]
                    if scene is not None:
                        own = scene[1].observe([images[row]], self.profile.limits)[0]
                        self._count(scene[0], scene[1], own, alarms)
            if self.drift.shifted:
                alarms["drift", EVERYONE] = Alarm("drift", EVERYONE, self.drift.level, 1.0)
        return list(alarms.values())

    def evidence(self, client: str) -> dict[str, float]:
        """What has gathered against a client, by kind."""
        with self._lock:
            stream = self.streams.get(client)
            return {} if stream is None else dict(stream.evidence)

    def _count(self, who: str, stream: Stream, signs: dict[str, bool], alarms: dict[tuple[str, str], Alarm]) -> None:
        stream.add(signs, self.drift.weights)
        if max(stream.evidence.values()) <= self._least:
            return
        for kind in {self.drift.weights[sign][0] for sign in signs}:
            value, limit = stream.evidence[kind], self.profile.alarms[kind]
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


def _grouped(clients: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for row, client in enumerate(clients):
        groups.setdefault(client, []).append(row)
    return groups
