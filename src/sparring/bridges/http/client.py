"""Sending: one host, paced, with a pause after refusals, and every picture on the bill before it leaves."""

from __future__ import annotations

import json
import re
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any

from sparring.bridges.http.declaration import Declaration
from sparring.bridges.http.patience import Patience
from sparring.bridges.http.wire import Request
from sparring.errors import ConfigError, EndpointError, MissingExtraError
from sparring.loading.reason import reason

TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 60.0
MOST_BYTES = 16 * 2**20
"""Of an answer; scores need far less."""
TRICKLE = 2.0
"""An answer that is not complete after so many times `timeout` is given up, though bytes of it still come."""
_LATER = "what it answered before is kept, and the same command goes on from there"
_SENDABLE = re.compile(r"[\x20-\x7e\t]*")
_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


@dataclass(eq=False)
class Client:
    """Sends requests to the declared host and nowhere else: no redirects, no proxies, no credentials from files.

    reserve: called with the number of pictures before every attempt; raises when the cap is reached. Called with the
    negative number where no connection came about, so that nothing left. clock and sleep are for tests.
    """

    declared: Declaration
    reserve: Callable[[int], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _next: float = field(default=0.0, init=False)
    _session: Any = field(default=None, init=False, repr=False)
    _patience: Patience = field(default_factory=Patience, init=False, repr=False)

    def ask(self, request: Request, pictures: int) -> Any:
        """The decoded answer. Raises `EndpointError` where there is none after the declared retries."""
        httpx, session = _library(), self._opened()
        options = dict(request.options) | {"extensions": {"trace": self._patience.trace}}
        headers = {"accept-encoding": "identity"} | options.pop("headers", {}) | self._headers()
        trouble = ""
        for attempt in range(self.declared.retries + 1):
            self.reserve(pictures)
            self._wait(pictures)
            pause = min(0.5 * 2**attempt, LONGEST_PAUSE)
            try:
                with (
                    self._patience.of(TRICKLE * self.declared.timeout),
                    session.stream("POST", request.url, headers=headers, **options) as reply,
                ):
                    if reply.status_code not in TRY_AGAIN:
                        return self._decoded(reply)
                    trouble = f"it answered {reply.status_code}"
                    pause = max(pause, self._asked_for(reply))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                self.reserve(-pictures)
                trouble = f"{type(error).__name__}: {reason(error)}"
            except httpx.TransportError as error:
                slow = f"an answer took more than {TRICKLE * self.declared.timeout:g} s"
                trouble = slow if self._patience.ended else f"{type(error).__name__}: {reason(error)}"
            except httpx.InvalidURL as error:
                raise ConfigError(f"the url {self.declared.url!r} cannot be used: {reason(error)}") from error
            if attempt < self.declared.retries:
                self.sleep(pause)
        raise EndpointError(
            f"{self.declared.host} gave no answer in {self.declared.retries + 1} attempts, at last {trouble}; {_LATER}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy opens connections of its own."""
        return {**vars(self), "_session": None, "_patience": Patience()}

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

    def _headers(self) -> dict[str, str]:
        """The declared headers with their secrets, none of which is ever shown."""
        filled = {name: self.declared.filled(value) for name, value in self.declared.headers.items()}
        for name, value in filled.items():
            if not _HEADER_NAME.fullmatch(name) or not _SENDABLE.fullmatch(value):
                raise ConfigError(
                    f"the header {name!r} of {self.declared.host} holds line breaks or letters that HTTP cannot carry; "
                    f"look at its declaration and the environment variables in it"
                )
        return filled

    def _asked_for(self, reply: Any) -> float:
        """Seconds of a Retry-After header, a number or a date. More than `LONGEST_PAUSE` of them end the run."""
        header = reply.headers.get("retry-after", "")
        try:
            seconds = float(header) if not header[:1].isalpha() else _until(header)
        except ValueError:
            return 0.0
        if seconds > LONGEST_PAUSE:
            raise EndpointError(
                f"{self.declared.host} answered {reply.status_code} and asks for a pause of {seconds:.0f} s; "
                f"{LONGEST_PAUSE:.0f} s at most are waited, so try again then; {_LATER}"
            )
        return max(0.0, seconds)  # of NaN, 0

    def _decoded(self, reply: Any) -> Any:
        host, content = self.declared.host, bytearray()
        encoding = reply.headers.get("content-encoding", "identity")
        if encoding != "identity":  # unpacked, a few bytes become gigabytes
            raise EndpointError(f"{host} sent an answer compressed as {encoding[:40]!r}, though asked for a plain one")
        for piece in reply.iter_raw():
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


def _until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
