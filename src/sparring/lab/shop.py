"""Files that the page serves: written once, by what is in them, and not more than a few hundred."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

KEPT = 400
"""Files that are kept."""


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sparring-lab-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(eq=False)
class Shop:
    """A folder of files named by their content: one that is being read is never written again."""

    folder: Path = field(default_factory=_folder)
    _known: OrderedDict[Path, None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def path(self, content: bytes, name: str) -> str:
        """Where a file of this content and name lies."""
        path = self.folder / hashlib.sha256(content).hexdigest()[:24] / name
        with self._lock:
            if path not in self._known:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)  # nobody knows the path before it is returned
            self._known[path] = None
            self._known.move_to_end(path)
            while len(self._known) > KEPT:
                oldest, _ = self._known.popitem(last=False)
                shutil.rmtree(oldest.parent, ignore_errors=True)
        return str(path)
