"""Text from outside (class names, paths, model names), made harmless before it is shown."""

from __future__ import annotations

import re

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control characters (they move the cursor of a terminal and are illegal in XML), direction overrides (they
# make a name read backwards), halves of surrogate pairs (undecodable file names) and non-characters.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb\ufffe\uffff]"
)


def printable(text: str) -> str:
    """`text` with every character that could disturb its surroundings replaced by U+FFFD.

    >>> printable("cat" + chr(27) + "[31m")
    'cat\N{REPLACEMENT CHARACTER}[31m'
    """
    return _HARMFUL.sub(_REPLACEMENT, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """`printable`, with every run of white space as one blank."""
    return " ".join(printable(text).split())


def is_link(url: str) -> bool:
    """Whether a reference may become a link: http and https only, never ``javascript:``."""
    return re.fullmatch(r"https?://[^\s\"'<>\\^`{|}]+", printable(url), re.IGNORECASE) is not None
