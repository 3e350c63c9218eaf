"""What every request passes before its images are looked at, and what its sender may meet."""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from dataclasses import dataclass

from starlette.requests import Request

from sparring.guard.clients import Caller
from sparring.guard.reading import body_of
from sparring.guard.refusal import RefusedError
from sparring.guard.service import Guard

SLOW = 0.5
"""Images per second that a throttled client may send."""
WORK = 18
"""Leading zero bits of a challenge's answer: about a second of a browser's time."""
CHALLENGE, ANSWER = "X-Guard-Challenge", "X-Guard-Answer"


@dataclass(frozen=True)
class Admitted:
    """A request that may be answered: its sender, its name in the logs, when it came, and whether labels are all."""

    caller: Caller
    trace: str
    at: float
    label_only: bool


def admit(guard: Guard, request: Request) -> Admitted:
    """Let a request in. Raises `RefusedError`: 401, 403 or 429, or 503 while the guard starts or stops."""
    if not guard.ready:
        raise RefusedError(503, "closing", "not ready: try again", retry_after=1)
    caller, now = guard.door.caller(request), time.time()
    action = guard.follower.sanction(caller.client, now)
    if action == "block":
        raise RefusedError(403, "blocked", "this client is blocked for a while")
    if action == "throttle":
        guard.door.check_pace(f"slow {caller.client}", 10, SLOW)
    if action == "challenge":
        _challenged(guard.key, caller.client, request, now)
    return Admitted(caller, _trace(now), now, action == "label")


def _trace(now: float) -> str:
    """32 hex digits, the time first: what is stored in order is found, and written, side by side."""
    return f"{int(now * 1000):012x}{random.getrandbits(80):020x}"


async def body(guard: Guard, request: Request) -> bytes:
    """The body, within the limits of the settings."""
    return await body_of(request, guard.settings.body_most, guard.settings.body_seconds)


def _challenged(key: bytes, client: str, request: Request, now: float) -> None:
    """Proof of work, for every request: SHA-256 of challenge and answer must begin with `WORK` zero bits."""
    for minute in (int(now // 60), int(now // 60) - 1):
        asked = challenge(key, client, minute)
        if solved(asked, request.headers.get(ANSWER, "")):
            return
    raise RefusedError(
        403,
        "challenge",
        f"solve the challenge: find an {ANSWER} such that SHA-256 of challenge:answer begins with {WORK} zero bits",
        extra={CHALLENGE: challenge(key, client, int(now // 60))},
    )


def challenge(key: bytes, client: str, minute: int) -> str:
    """What a client is asked in this minute."""
    return hmac.new(key, f"challenge {client} {minute}".encode(), hashlib.sha256).hexdigest()[:32]


def solved(asked: str, answer: str) -> bool:
    """Has the work been done?"""
    digest = hashlib.sha256(f"{asked}:{answer}".encode()).digest()
    return bool(answer) and len(answer) <= 64 and int.from_bytes(digest[:8], "big") >> (64 - WORK) == 0
