"""The reference, made from the docstrings: one page per flat file and per room, and an index of the public names."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from scripts.docs_entry import told_apart, with_meanings
from scripts.docs_markdown import docstring, fence, first_line, page, plain, prose, table

import sparring

UNDOCUMENTED_ROOMS = ("cli",)
"""The commands have pages of their own."""
INNER_ROOMS = ("defenses.detectors", "defenses.transforms")
"""Packages one level down whose names are for users."""


def rooms() -> list[str]:
    """The flat files and packages directly below `sparring`, and the inner ones."""
    found = [module.name for module in pkgutil.iter_modules(sparring.__path__)]
    outer = [name for name in found if name not in UNDOCUMENTED_ROOMS and not name.startswith("_")]
    return sorted((*outer, *INNER_ROOMS))


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    return {"reference/index.md": _index()} | {f"reference/{room}.md": _room_page(room) for room in rooms()}


def names(room: str) -> list[str]:
    """The public names of a room: its `__all__`, else what is defined there."""
    module = importlib.import_module(f"sparring.{room}")
    declared: list[str] | None = getattr(module, "__all__", None)
    if declared is not None:
        return [name for name in declared if not isinstance(getattr(module, name), ModuleType)]
    return [name for name, thing in vars(module).items() if not name.startswith("_") and _is_home(thing, module)]


def _is_home(thing: object, module: ModuleType) -> bool:
    return (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module.__name__


def _index() -> str:
    rows = [(_public_link(name), plain(first_line(getattr(sparring, name)))) for name in sparring.__all__]
    other = [
        (f"[sparring.{room}]({room}.md)", plain(first_line(importlib.import_module(f"sparring.{room}"))))
        for room in rooms()
    ]
    return page(
        "Reference",
        "These names are the public API; a test pins them. Use them as `import sparring as sp`.",
        table(("name", "what it is"), rows),
        "## Files and packages",
        "For reading, and for attacks of your own. What is not listed above may change between minor versions.",
        table(("where", "what it holds"), other),
    )


def _public_link(name: str) -> str:
    thing = getattr(sparring, name)
    if isinstance(thing, ModuleType):
        return f"[`sp.{name}`]({name}.md)"
    room = thing.__module__.split(".")[1]
    return f"[`sp.{name}`]({room}.md#{anchor(room, name)})"


def anchor(room: str, name: str) -> str:
    """The id of a name's heading."""
    return f"{room}.{name}"


def _room_page(room: str) -> str:
    module = importlib.import_module(f"sparring.{room}")
    parts = [prose(docstring(module))]
    for name in names(room):
        parts += _entry(room, name, getattr(module, name))
    return page(f"sparring.{room}", *parts)


def _entry(room: str, name: str, thing: Any) -> list[str]:
    heading = f"## {name.replace('_', chr(92) + '_')} {{ #{anchor(room, name)} }}"
    if inspect.isclass(thing):
        return [heading, *_class(name, thing)]
    if callable(thing):
        return [heading, fence("python", signature(name, thing)), prose(docstring(thing))]
    return [heading, *_value(thing)]


def _value(thing: Any) -> list[str]:
    """A table of ours, or an alias: what its keys are, or what it stands for."""
    if isinstance(thing, dict):
        return [f"A table with the keys {', '.join(f'`{key}`' for key in thing)}."]
    return [fence("python", str(thing))]


def _class(name: str, kind: type[Any]) -> list[str]:
    parts = [] if issubclass(kind, BaseModel) else [fence("python", signature(name, kind))]
    fields = _fields(kind)
    text, said = told_apart(_own_docstring(kind), [field.strip("`") for field, *_ in fields])
    parts.append(prose(text))
    if fields:
        parts.append(with_meanings("field", fields, said))
    for method, function in vars(kind).items():
        if method.startswith("_") and method != "__call__":
            continue
        target = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        if isinstance(function, property):
            parts += [f"### {name}.{method}".replace("_", "\\_"), prose(docstring(function))]
        elif inspect.isfunction(target) and docstring(target):
            parts.append(f"### {name}.{method}()".replace("_", "\\_"))
            parts += [fence("python", signature(method, target)), prose(docstring(target))]
    return parts


def _own_docstring(kind: type[Any]) -> str:
    """Not the signature that `dataclass` writes where a class has none."""
    text = docstring(kind)
    return "" if text.startswith(f"{kind.__name__}(") else text


def _fields(kind: type[Any]) -> list[tuple[str, str, str]]:
    if issubclass(kind, BaseModel):
        return [
            (f"`{name}`", f"`{_type(field.annotation)}`", "" if field.is_required() else f"`{field.default!r}`")
            for name, field in kind.model_fields.items()
        ]
    if dataclasses.is_dataclass(kind):
        shown = [field for field in dataclasses.fields(kind) if not field.name.startswith("_")]
        return [(f"`{f.name}`", f"`{_type(f.type)}`", _default(f)) for f in shown]
    return []


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is dataclasses.MISSING else "`{}`" if field.default_factory is dict else ""
    return f"`{field.default!r}`"


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.replace("sparring.", "").replace("typing.", "")


def signature(name: str, function: Any) -> str:
    """Name and parameters as they are written in the code, one per line where they are many."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return name
    parts, marked = [], False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not marked:
            parts.append("*")
            marked = True
        parts.append(_parameter(parameter))
        marked = marked or parameter.kind is parameter.VAR_POSITIONAL
    returns = "" if found.return_annotation in (found.empty, "None") else f" -> {_type(found.return_annotation)}"
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= 100:
        return line
    inner = "".join(f"    {part},\n" for part in parts)
    return f"{name}(\n{inner}){returns}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    typed = "" if parameter.annotation is parameter.empty else f": {_type(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{typed}"
    return (
        f"{stars}{parameter.name}{typed} = {parameter.default!r}"
        if typed
        else f"{parameter.name}={parameter.default!r}"
    )
