"""Names of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec


def find(package: str, name: str, homes: Mapping[str, Sequence[str]]) -> object:
    """The attribute `name` of `package`: from the module that `homes` names for it, or a module of the package.

    `homes`: module of the package -> the names it is home to. What was found is kept, so this runs once per name.
    Raises `AttributeError` for everything else, as any module would.
    """
    home = next((module for module, names in homes.items() if name in names), None)
    if home is not None:
        found: object = getattr(import_module(f"{package}.{home}"), name)
    elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
        found = import_module(f"{package}.{name}")
    else:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    setattr(sys.modules[package], name, found)
    return found
