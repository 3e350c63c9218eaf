"""Where things that were computed once are kept."""

from __future__ import annotations

import os
from pathlib import Path

from sparring.errors import InputError
from sparring.loading.paths import user_path


def cache_folder() -> Path:
    """`$SPARRING_CACHE`, else `$XDG_CACHE_HOME/sparring`, else `~/.cache/sparring`; it need not exist yet.

    Raises `InputError` where there is no home folder either.
    """
    if chosen := os.environ.get("SPARRING_CACHE"):
        return user_path(chosen)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return user_path(shared) / "sparring"
    try:
        return Path.home() / ".cache" / "sparring"
    except RuntimeError as error:
        raise InputError("there is no home folder to keep a cache in: set SPARRING_CACHE to a folder") from error
