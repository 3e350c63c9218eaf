"""Paths as people write them, and what lies there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from sparring.errors import DataError


def user_path(text: str | Path) -> Path:
    """The path, "~" being the home folder; a user nobody knows ("~x") is taken literally."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def kind_of(path: Path) -> Literal["file", "folder", "other", "missing"]:
    """What lies at `path`; also "missing" where the system refuses to look."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "missing"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def existing_file(path: Path, what: str) -> Path:
    """`path` if it is a regular file that is not empty; else `DataError` naming it."""
    kind = kind_of(path)
    if kind == "missing":
        raise DataError(f"{what} {path} does not exist; check the path (the current folder is {Path.cwd()})")
    if kind != "file":
        raise DataError(f"{what} {path} is {'a folder' if kind == 'folder' else 'a device or pipe'}, not a file")
    if path.stat().st_size == 0:
        raise DataError(f"{what} {path} is empty (0 bytes); copy or download it again")
    return path
