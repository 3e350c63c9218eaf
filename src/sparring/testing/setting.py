"""What the running test may be told from outside, and what it tells: how `assert_robust` and the plug-in meet."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Setting:
    """One running test: its name, an effort that overrides its own, a folder for reports, and the lines it said."""

    name: str
    effort: str | None = None
    folder: Path | None = None
    said: list[str] = field(default_factory=list)

    def report_path(self) -> Path | None:
        """Where the report of the next assertion goes, without suffix; None without a folder."""
        if self.folder is None:
            return None
        plain = re.sub(r"[^\w.-]+", "-", self.name).strip("-.")[:120]
        return self.folder / (plain if not self.said else f"{plain}-{len(self.said) + 1}")


CURRENT: ContextVar[Setting | None] = ContextVar("sparring_test", default=None)
"""The test that runs now; None outside pytest."""
