"""A request that gets no answer, and what its sender is told."""

from __future__ import annotations


class RefusedError(Exception):
    """Answered with `status` and the plain text `said`, which never quotes what was sent.

    retry_after: seconds, for what may be tried again; reason: one word for the metrics; extra: more headers.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        said: str,
        retry_after: int | None = None,
        extra: dict[str, str] | None = None,
    ) -> None:
        super().__init__(said)
        self.status, self.reason, self.said, self.retry_after = status, reason, said, retry_after
        self.extra = extra or {}

    @property
    def headers(self) -> dict[str, str]:
        """Those of the answer."""
        found = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
        return found | self.extra | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
