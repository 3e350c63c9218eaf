"""What a library said, fit for one line of ours."""

from __future__ import annotations


def reason(error: object) -> str:
    """The first line of an error's message, or its type if it has none; at most 160 characters."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 160 else line[:157] + "..."
