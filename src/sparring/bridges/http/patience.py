"""An end to answers that trickle in: the timeout of an HTTP library begins anew with every byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

_OPENED = ("connection.connect_tcp.complete", "connection.start_tls.complete")


class Patience:
    """Watches one connection. `trace` is handed to httpx with every request, which tells it when a connection opens."""

    def __init__(self) -> None:
        self._stream: Any = None
        self.ended = False

    def trace(self, event: str, told: Mapping[str, Any]) -> None:
        """Remember the connection that was opened."""
        if event in _OPENED:
            self._stream = told["return_value"]

    @contextlib.contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Shut the connection down, and say so in `ended`, if the block takes longer than `seconds`."""
        self.ended = False
        watch = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._end)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _end(self) -> None:
        self.ended = True
        own = None if self._stream is None else self._stream.get_extra_info("socket")
        with contextlib.suppress(OSError):  # closed already
            if own is not None:
                own.shutdown(socket.SHUT_RDWR)  # whoever waits for a byte wakes up; closing would leave him waiting
