"""A `Config` as a commented `sparring.toml`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.errors import ConfigError
from sparring.loading.config import TABLES, Config, is_path

_HEADINGS = {
    "model": "What is attacked.",
    "data": "The images it is attacked on. Relative paths start at the folder of this file.",
    "threat": "What the attacker may do.",
    "audit": "How hard to try, and what to write down.",
    "stack": "What stands around the model: transforms before it, detectors beside it.",
    "harden": "How `sparring harden` trains the model to withstand the attack.",
    "guard": "How `sparring guard` serves and watches that stack.",
}


def render_config(config: Config, comments: Mapping[str, str] | None = None, folder: str | Path = ".") -> str:
    """TOML text with every setting and what it means; those left out stand there as comments.

    comments: more to say, by table ("data") or by key ("data.size"). folder: where the file will lie; paths below
    it are written relative to it. `load_config` reads the same `Config` back, its paths absolute. Raises
    `ConfigError` for text that cannot be stored.
    """
    said, home = dict(comments or {}), Path(folder).absolute()
    lines: list[str] = []
    for name, kind in TABLES.items():
        table = getattr(config, name)
        lines += [*_comment(_HEADINGS[name]), *_comment(said.get(name, ""))]
        lines.append(f"[{name}]" if table is not None else f"# [{name}]")
        for key, field in kind.model_fields.items():
            value = None if table is None else getattr(table, key)
            lines += _comment(said.get(f"{name}.{key}", ""))
            explained = " ".join((field.description or "").split())
            if value is None or value in ((), {}):
                lines.append(f"# {key} =  # {explained}")
            else:
                lines.append(f"{key} = {_value(key, value, home)}  # {explained}")
        lines.append("")
    return "\n".join(lines)


def _comment(text: str) -> list[str]:
    printable = ("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines())
    return [f"# {line}".rstrip() for line in printable]


def _value(key: str, value: Any, home: Path) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_value(key, entry, home) for entry in value)}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{name} = {_value('', entry, home)}" for name, entry in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, bool):
        return str(value).lower()
    if is_path(key, value, Path.cwd()):
        return _text(_near(Path(value), home))
    return _text(value) if isinstance(value, str) else repr(value)


def _near(path: Path, home: Path) -> str:
    absolute = path.absolute()
    return "./" + absolute.relative_to(home).as_posix() if absolute.is_relative_to(home) else str(absolute)


def _text(text: str) -> str:
    """A TOML basic string; JSON escapes all that TOML wants escaped but DEL."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text!r} is not valid Unicode and cannot be stored in sparring.toml; rename it") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
