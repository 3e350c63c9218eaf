"""A look at the common database again and again, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

LOG = logging.getLogger("sparring.guard")


class Recurring:
    """Calls `look` every `seconds` on a thread `name`. What keeps it from looking is logged once, after `trouble`,
    until a look succeeds again.
    """

    def __init__(self, name: str, seconds: float, look: Callable[[], object], trouble: str) -> None:
        self.seconds, self.look, self.trouble = seconds, look, trouble
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        fine = True
        while not self._stop.wait(self.seconds):
            try:
                self.look()
                fine = True
            except (SQLAlchemyError, OSError) as error:
                if fine:
                    LOG.error("%s: %s", self.trouble, str(error.__cause__ or error).splitlines()[0])
                fine = False
