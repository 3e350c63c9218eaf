"""Answers already paid for, and the bill: one SQLite file, safe against crashes and shared by processes."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sparring.errors import DataError
from sparring.loading.reason import reason

_TABLES = """
create table if not exists answers (endpoint text, picture text, scores blob, primary key (endpoint, picture));
create table if not exists bill (endpoint text primary key, spent integer not null);
"""


class Ledger:
    """The file at `path`: answers of one `endpoint`, as it is declared, and the bill of one `account`, which stays the
    same where only the declaration changes. A process that dies loses nothing of what was written.
    """

    def __init__(self, path: Path, endpoint: str, account: str) -> None:
        self.path, self.endpoint, self.account = path, endpoint, account
        self._file: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> Ledger:
        """A copy reads the same file by a connection of its own."""
        return Ledger(self.path, self.endpoint, self.account)

    def known(self, pictures: Sequence[str]) -> dict[str, np.ndarray]:
        """Digest to scores (K,), float64, of those `pictures` that were answered before."""
        found = {}
        with self._open() as file:
            for picture in dict.fromkeys(pictures):
                row = file.execute(
                    "select scores from answers where endpoint = ? and picture = ?", (self.endpoint, picture)
                ).fetchone()
                if row is not None:
                    found[picture] = np.frombuffer(row[0], dtype="<f8")
        return found

    def keep(self, pictures: Sequence[str], scores: np.ndarray) -> None:
        """Store the `scores` (N, K) of `pictures`, all or none."""
        rows = [
            (self.endpoint, p, np.ascontiguousarray(s, "<f8").tobytes()) for p, s in zip(pictures, scores, strict=True)
        ]
        with self._open() as file:
            file.executemany("insert or replace into answers values (?, ?, ?)", rows)

    def reserve(self, pictures: int, cap: int) -> bool:
        """Put `pictures` on the bill, unless that exceeded the cap. Exact also among processes."""
        with self._open() as file:
            fits = self._spent(file) + pictures <= cap
            if fits:
                file.execute(
                    "insert into bill values (?, ?) "
                    "on conflict (endpoint) do update set spent = spent + excluded.spent",
                    (self.account, pictures),
                )
        return fits

    def totals(self) -> tuple[int, int]:
        """Pictures sent, pictures whose answer is kept."""
        with self._open() as file:
            kept = file.execute("select count(*) from answers where endpoint = ?", (self.endpoint,)).fetchone()[0]
            return self._spent(file), int(kept)

    def _spent(self, file: sqlite3.Connection) -> int:
        row = file.execute("select spent from bill where endpoint = ?", (self.account,)).fetchone()
        return 0 if row is None else int(row[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction that nobody else writes in; undone if the block raises."""
        with self._lock:
            try:
                file = self._connected()
                file.execute("begin immediate")
                try:
                    yield file
                except BaseException:
                    file.execute("rollback")
                    raise
                file.execute("commit")
            except (sqlite3.Error, OSError) as error:
                raise DataError(
                    f"the answers in {self.path} cannot be read or written: {reason(error)}; name another file, "
                    "cache = ..."
                ) from error

    def _connected(self) -> sqlite3.Connection:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            weakref.finalize(self, file.close)
            file.execute("pragma journal_mode = wal")
            file.execute("pragma synchronous = normal")
            file.executescript(_TABLES)
            self._file = file
        return self._file
