"""The page of one entry of a table, whatever the table: the same parts in the same order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.docs_markdown import facts, fence, page, plain, prose, table


@dataclass(frozen=True, kw_only=True)
class Note:
    """What no docstring says: where an entry ends (Markdown), and which pages to read beside it.

    near: pages below docs/ without their ending, "transforms/jpeg" or "defenses#random-transforms".
    """

    limit: str
    near: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry: what it promises, its facts, its parameters, an example that runs, its limits and neighbours.

    parameters: rows of name, type and default. after: further Markdown below the example. ends: heading of the limits.
    """

    title: str
    text: str
    about: Iterable[tuple[str, str]]
    parameters: Sequence[Sequence[str]]
    example: str
    ends: str
    note: Note
    remark: str = ""
    after: Sequence[str] = ()


def entry_page(entry: Entry) -> str:
    """The page of one entry, in a folder directly below docs/."""
    return page(
        entry.title,
        prose(entry.text),
        facts(entry.about),
        "## Parameters",
        table(("name", "type", "default"), entry.parameters) if entry.parameters else "None.",
        entry.remark,
        "## Example",
        fence("python", entry.example),
        *entry.after,
        f"## {entry.ends}",
        entry.note.limit,
        "## See also",
        neighbours(entry.note.near),
    )


def fields(kind: Any) -> list[tuple[str, str, str]]:
    """The parameters of a dataclass: name, type and default."""
    return [(f"`{f.name}`", f"`{f.type}`", f"`{f.default!r}`") for f in dataclasses.fields(kind)]


def neighbours(near: Sequence[str]) -> str:
    """Links to other pages, from a page in a folder directly below docs/."""
    return ", ".join(f"[{_label(target)}](../{_address(target)})" for target in near)


def _address(target: str) -> str:
    """Of a page: `transforms/jpeg` is `transforms/jpeg.md`, also before an anchor."""
    name, mark, anchor = target.partition("#")
    return f"{name}.md{mark}{anchor}"


def _label(target: str) -> str:
    """What a link to it says: the name of an entry, else page and anchor in words."""
    room, _, name = target.partition("/")
    if name and name != "index":
        return f"`{name}`"
    return plain(room.replace("-", " ").replace("#", ": ").capitalize())
