"""The page of one entry of a table, whatever the table: the same parts in the same order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.docs_markdown import facts, fence, page, plain, prose, table

SHARED = {
    "steps": "gradients per image",
    "loss": "what it climbs",
    "random_start": "begin at a random point of the budget",
    "decay": "how much of the direction before is kept",
}
"""Parameters that several entries have, for docstrings that say no more than their paper's number."""

_OUTCOME = re.compile(r"(?<=[.)]) (?=Raises |Returns )")
"""Where a paragraph about parameters goes on to what comes of them."""


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
    text, said = told_apart(entry.text, [row[0].strip("`") for row in entry.parameters])
    return page(
        entry.title,
        prose(text),
        facts(entry.about),
        "## Parameters",
        with_meanings("name", entry.parameters, said) if entry.parameters else "None.",
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


def told_apart(text: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A docstring without what it says as `name: ...` of one or several of `names`; and what that is, by name."""
    if not names:
        return text, {}
    one = "|".join(map(re.escape, names))
    start = re.compile(rf"(?:^|(?<=[.;] ))((?:{one})(?:, (?:{one}))*): ")
    kept, said = [], {}
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        before, *parts = start.split(" ".join(paragraph.split()))
        if not parts:
            kept.append(paragraph)
        elif before:
            kept.append(before.strip())
        for heads, what in zip(parts[::2], parts[1::2], strict=True):
            what, *after = _OUTCOME.split(what.strip(), maxsplit=1)
            kept += after
            said |= dict.fromkeys(heads.split(", "), what.rstrip(";"))
    return "\n\n".join(kept), said


def with_meanings(head: str, rows: Sequence[Sequence[str]], said: dict[str, str]) -> str:
    """The table of parameters or fields; what each means where that is known."""
    heads = (head, "type", "default")
    if not said:
        return table(heads, rows)
    return table((*heads, "what it is"), [(*row, plain(_meaning(row[0].strip("`"), said))) for row in rows])


def _meaning(name: str, said: dict[str, str]) -> str:
    text, shared = said.get(name, ""), SHARED.get(name, "")
    if not text or not shared:
        return text or shared
    return f"{shared}: {text}" if re.match(r"\d+\.?$|the paper's", text) else text


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
