"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sparring.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then rename. Raises `InputError` where it can't."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path}: {_reason(error)}; choose a writable folder") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())  # noqa: PTH101 - mkstemp hands out a name, not a Path
        os.replace(name, path)  # noqa: PTH105
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _reason(error: OSError | ValueError) -> str:
    """Why a path cannot be used: the system's words, or Python's where it never asked (a NUL character)."""
    return getattr(error, "strerror", None) or str(error)


def check_writable(path: Path) -> None:
    """Raise `InputError` now if `write_whole(path, ...)` would fail later. Leaves nothing behind."""
    try:
        taken, folder = path.is_dir(), path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        path.lstat()  # a name that the system cannot hold fails here, one that is free does too
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {str(path)[:200]!r}: {_reason(error)}; choose another name") from error
    if taken:
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: {folder} is not a writable folder; choose another place")
