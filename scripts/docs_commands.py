"""The command pages, made from the command line itself, and the page on `sparring.toml`, made from its tables."""

from __future__ import annotations

from typing import Any

import typer.main
from scripts.docs_markdown import cell, fence, page, plain, table

from sparring.cli import app
from sparring.loading.config import TABLES, Config

EXIT_CODES = (
    ("0", "fine"),
    ("1", "the gate of `--fail-under` failed"),
    ("2", "bad usage or input; the message says what was wrong and what to do"),
    ("130", "interrupted with Ctrl-C; an audit has written the report of what it knew"),
)


def commands() -> dict[str, Any]:
    """Name to command, as the parser knows them."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    made = {"commands/index.md": _index(), "commands/sparring-toml.md": _settings()}
    return made | {f"commands/{name}.md": _page(name, command) for name, command in commands().items()}


def flags(command: Any) -> list[str]:
    """Every spelling of every flag that is shown, those of its subcommands too."""
    params = [p for part in (command, *_parts(command).values()) for p in part.params if not p.hidden]
    return [flag for parameter in params for flag in (*parameter.opts, *parameter.secondary_opts)]


def _parts(command: Any) -> dict[str, Any]:
    """Its subcommands, by name."""
    return dict(getattr(command, "commands", {}))


def _index() -> str:
    group: Any = typer.main.get_command(app)
    rows = [(f"[sparring {name}]({name}.md)", plain(_promise(command))) for name, command in commands().items()]
    return page(
        "Commands",
        table(("command", "what it does"), rows),
        "## Flags of `sparring` itself",
        _flags_table(group),
        "## Exit codes",
        table(("code", "meaning"), EXIT_CODES),
        "## Declaration",
        "Flags lie over [sparring.toml](sparring-toml.md), which is read from the current folder or `--config`.",
    )


def _promise(command: Any) -> str:
    return " ".join(command.help.split("\n\n")[0].split())


def _page(name: str, command: Any) -> str:
    parts = _told(command, "##")
    for below, subcommand in _parts(command).items():
        parts += [f"## sparring {name} {below}", *_told(subcommand, "###")]
    return page(f"sparring {name}", *parts)


def _told(command: Any, heading: str) -> list[str]:
    """What it does, examples, flags."""
    text, _, examples = command.help.partition("\n\nExample")
    lines = [line.strip() for line in examples.split(":", 1)[1].splitlines() if line.strip()] if examples else []
    parts = [plain(text)]
    if lines:
        parts += [f"{heading} Examples", fence("sh", "\n".join(_example(line) for line in lines))]
    return [*parts, f"{heading} Flags", _flags_table(command)]


def _example(line: str) -> str:
    """`command   (remark)` becomes `command  # remark`, so that it can be copied."""
    command, separator, remark = line.partition("   (")
    return f"{command}  # {remark.rstrip(')')}" if separator else line


def _flags_table(command: Any) -> str:
    shown = [parameter for parameter in command.params if not parameter.hidden]
    rows = [(_spelling(p), _default(p), plain(p.help or "")) for p in shown]
    return table(("flag", "default", "what it does"), [*rows, ("`--help`, `-h`", "", "Show the help and exit.")])


def _spelling(parameter: Any) -> str:
    spelt = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    return spelt + (" (repeatable)" if parameter.multiple else "")


def _default(parameter: Any) -> str:
    if parameter.default is None or (parameter.is_flag and not parameter.default):
        return ""
    if parameter.is_flag:
        return f"`{parameter.opts[0]}`"
    return f"`{cell(parameter.default)}`"


def _settings() -> str:
    parts = [
        "Model, data, threat and audit, declared once. `sparring init` writes one with every setting and what it "
        "means. A key that is left out has its default; an unknown key is an error that names the known ones. Relative "
        "paths start at the folder of the file. Flags of a command lie over it.",
    ]
    for name, kind in TABLES.items():
        rows = [
            (f"`{key}`", _setting_default(field), plain(" ".join((field.description or "").split())))
            for key, field in kind.model_fields.items()
        ]
        parts += [f"## [{name}]".replace("[", "\\["), table(("key", "default", "meaning"), rows)]
    return page("sparring.toml", *parts)


def _setting_default(field: Any) -> str:
    if field.is_required():
        return "required"
    return "" if field.default is None or field.default == () else f"`{field.default}`"


def settings() -> list[str]:
    """Every key of every table."""
    return [key for kind in (TABLES[name] for name in Config.model_fields) for key in kind.model_fields]
