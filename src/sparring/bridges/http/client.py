"""Sending: one host, paced, with a pause after refusals, and every picture on the bill before it leaves."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from sparring.bridges.http.declaration import Declaration
from sparring.bridges.http.wire import Request
from sparring.errors import EndpointError, MissingExtraError
from sparring.loading.reason import reason

TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 60.0
MOST_BYTES = 16 * 2**20
"""Of an answer; scores need far less."""


@dataclass(eq=False)
class Client:
    """Sends requests to the declared host and nowhere else: no redirects, no proxies, no credentials from files.

    reserve: called with the number of pictures before every attempt; raises when the cap is reached. clock and sleep
    are for tests.
    """

    declared: Declaration
    reserve: Callable[[int], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _next: float = field(default=0.0, init=False)
    _session: Any = field(default=None, init=False, repr=False)

    def ask(self, request: Request, pictures: int) -> Any:
        """The decoded answer. Raises `EndpointError` where there is none after the declared retries."""
        httpx, session = _library(), self._opened()
        options = dict(request.options)
        headers = options.pop("headers", {}) | {
            name: self.declared.filled(value) for name, value in self.declared.headers.items()
        }
        trouble = ""
        for attempt in range(self.declared.retries + 1):
            self.reserve(pictures)
            self._wait(pictures)
            pause = min(0.5 * 2**attempt, LONGEST_PAUSE)
            try:
                with session.stream("POST", request.url, headers=headers, **options) as reply:
                    if reply.status_code not in TRY_AGAIN:
                        return self._decoded(reply)
                    trouble = f"it answered {reply.status_code}"
                    pause = max(pause, _asked_for(reply.headers.get("retry-after", "")))
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {reason(error)}"
            if attempt < self.declared.retries:
                self.sleep(pause)
        raise EndpointError(
            f"{self.declared.host} gave no answer in {self.declared.retries + 1} attempts, at last {trouble}; what it "
            "answered before is kept, and the same command goes on from there"
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy opens connections of its own."""
        return {**vars(self), "_session": None}

    def _opened(self) -> Any:
        if self._session is None:
            self._session = _library().Client(timeout=self.declared.timeout, follow_redirects=False, trust_env=False)
            weakref.finalize(self, self._session.close)
        return self._session

    def _wait(self, pictures: int) -> None:
        if self.declared.per_second is None:
            return
        now = self.clock()
        if now < self._next:
            self.sleep(self._next - now)
        self._next = max(now, self._next) + pictures / self.declared.per_second

    def _decoded(self, reply: Any) -> Any:
        host, content = self.declared.host, bytearray()
        for piece in reply.iter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                raise EndpointError(f"{host} sent more than {MOST_BYTES} bytes for an answer; nothing of it was used")
        if reply.is_redirect:
            raise EndpointError(f"{host} redirects elsewhere, which is never followed: declare the url it names")
        if reply.status_code != 200:
            said = " ".join(content[:200].decode("utf-8", "replace").split())
            raise EndpointError(f"{host} answered {reply.status_code}: {said!r}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise EndpointError(f"{host} answered something else than JSON: {reason(error)}") from error


def _library() -> ModuleType:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("a model behind HTTP", "http") from None
    return httpx


def _asked_for(header: str) -> float:
    """Seconds of a Retry-After header; dates are not read."""
    try:
        return min(max(0.0, float(header)), LONGEST_PAUSE)
    except ValueError:
        return 0.0
