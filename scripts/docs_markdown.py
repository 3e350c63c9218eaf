"""Small pieces of Markdown that every generated page uses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

GENERATED = "<!-- Made from the code by scripts/build_docs.py; change the docstring, not this page. -->"


def fence(language: str, text: str) -> str:
    """A code block."""
    return f"```{language}\n{text.rstrip()}\n```"


def cell(text: object) -> str:
    """Text that stays inside one cell of a table; inside `code` a bar needs no escape."""
    parts = re.split(r"(`[^`]+`)", " ".join(str(text).split()))
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of named facts."""
    return "\n".join(f"- **{name}:** {value}" for name, value in pairs)


def page(title: str, *parts: str) -> str:
    """A generated page: title first, then its parts, then where it came from."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part), GENERATED, ""])


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A pipe table; cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def plain(text: str) -> str:
    """Prose from a docstring: what Markdown would take for mark-up is escaped, `code` stays."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    text = re.sub(r"([\\*\[\]])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("<", "&lt;")


def docstring(thing: object) -> str:
    """Its own docstring, cleaned; empty where there is none or it is inherited from `object`."""
    found = getattr(thing, "__doc__", None) or ""
    return inspect.cleandoc(found)


def first_line(thing: object) -> str:
    """The one-line promise at the head of a docstring: its first sentence."""
    paragraph = " ".join(docstring(thing).split("\n\n")[0].split())
    return re.split(r"(?<=[\w)`]{2}\.) (?=[A-Z`]|\w+:)", paragraph)[0]


def prose(text: str) -> str:
    """A cleaned docstring as Markdown: paragraphs, indented equations and doctest examples as code."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.lstrip().startswith(">>>"):
            blocks.append(fence("pycon", inspect.cleandoc(paragraph)))
        elif paragraph.startswith("    "):
            blocks.append(fence("text", inspect.cleandoc(paragraph)))
        else:
            blocks.append(_with_items(paragraph))
    return "\n\n".join(blocks)


def _with_items(paragraph: str) -> str:
    """A paragraph; lines that begin with `name:` start a new one, as parameters do in our docstrings."""
    lines = re.sub(r"\n(?!it: )(?=[a-z_]\w*(?:, [a-z_]\w*)*: )", "\n\n", paragraph)
    return plain(lines)
