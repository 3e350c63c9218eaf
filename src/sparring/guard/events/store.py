"""The database: SQLite (WAL) or PostgreSQL, brought to the newest layout when it is opened."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, delete, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sparring.errors import ConfigError
from sparring.guard.events.tables import ALERTS, EVENTS, SANCTIONS, VERDICTS

MIGRATING = 7_413_025
"""PostgreSQL's advisory lock under which only one replica migrates."""
Row = dict[str, Any]
WRITTEN = tuple(column.name for column in EVENTS.columns if column.name != "id")
VALUES = itemgetter(*WRITTEN)
AT_ONCE = 256
"""Rows in one statement."""


class Store:
    """Opens `url`, such as sqlite:///events.db or postgresql://user@host/name. Raises `ConfigError` where it can't."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise ConfigError(
                "[guard] database is not a URL such as sqlite:///file or postgresql://host/name"
            ) from None
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise ConfigError(f"[guard] database must be sqlite or postgresql, got {kind}")
        if kind == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {} if kind == "sqlite" else {"pool_pre_ping": True, "pool_size": 4}
        arguments = {"timeout": 10} if kind == "sqlite" else {"connect_timeout": 5}
        self.kind = kind
        self.engine: Engine = create_engine(parsed, connect_args=arguments, **options)
        if kind == "sqlite":
            event.listen(self.engine, "connect", _wal)
        try:
            self._migrate()
        except SQLAlchemyError as error:
            said = str(error.__cause__ or error).splitlines()[0]
            raise ConfigError(f"the database {parsed.render_as_string(hide_password=True)} fails: {said}") from None

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction."""
        with self.engine.begin() as connection:
            yield connection

    def add(self, table: Table, rows: Sequence[Row], connection: Connection) -> None:
        """Insert rows; one whose key is there already is left out, so that a doubtful commit can be repeated."""
        dialect = sqlite if self.kind == "sqlite" else postgresql
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), list(rows))

    def claim(self, table: Table, row: Row, connection: Connection) -> bool:
        """Insert a row; False where its key is there already, so that of many replicas one is told True."""
        dialect = sqlite if self.kind == "sqlite" else postgresql
        statement = dialect.insert(table).values(row).on_conflict_do_nothing().returning(*table.primary_key)
        return connection.execute(statement).first() is not None

    def add_events(self, rows: Sequence[Row], connection: Connection) -> None:
        """`add` for events, past SQLAlchemy's reading of every value: they are many, and of plain types. Many rows to
        a statement, for SQLite lets other threads run, and waits for them, once per statement.
        """
        mark = "?" if self.kind == "sqlite" else "%s"
        one = f"({', '.join([mark] * len(WRITTEN))})"
        at = 0
        while at < len(rows):
            size = min(AT_ONCE, 1 << (len(rows) - at).bit_length() - 1)  # few sizes: statements are prepared once each
            part = rows[at : at + size]
            said = f"INSERT INTO events ({', '.join(WRITTEN)}) VALUES {', '.join([one] * size)} ON CONFLICT DO NOTHING"  # noqa: S608 - ours
            connection.exec_driver_sql(said, tuple(chain.from_iterable(map(VALUES, part))))
            at += size

    def put(self, table: Table, row: Row, connection: Connection) -> None:
        """Insert a row or replace the one with the same primary key."""
        dialect = sqlite if self.kind == "sqlite" else postgresql
        keys = [column.name for column in table.primary_key]
        statement = dialect.insert(table).values(row)
        rest = {name: value for name, value in row.items() if name not in keys}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest))

    def events_after(self, number: int, most: int = 2000) -> list[Row]:
        """Events with a higher id, oldest first."""
        return self.rows(select(EVENTS).where(EVENTS.c.id > number).order_by(EVENTS.c.id).limit(most))

    def rows(self, statement: Any) -> list[Row]:
        """What a SELECT finds, as dictionaries."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def last_id(self) -> int:
        """Of the newest event; 0 where there is none."""
        with self.engine.connect() as connection:
            return int(connection.scalar(select(func.max(EVENTS.c.id))) or 0)

    def count(self, since: float = 0.0) -> int:
        """Events since a time."""
        with self.engine.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(EVENTS).where(EVENTS.c.at >= since)) or 0)

    def retain(self, days: float, now: float | None = None) -> dict[str, int]:
        """Delete what is older than `days`: events and their verdicts, resolved alerts, lapsed sanctions."""
        now = time.time() if now is None else now
        before = now - days * 86400
        old = select(EVENTS.c.key).where(EVENTS.c.at < before)
        with self.begin() as connection:
            return {
                "verdicts": connection.execute(delete(VERDICTS).where(VERDICTS.c.key.in_(old))).rowcount,
                "events": connection.execute(delete(EVENTS).where(EVENTS.c.at < before)).rowcount,
                "alerts": connection.execute(
                    delete(ALERTS).where(ALERTS.c.seen < before, ALERTS.c.resolved.is_not(None))
                ).rowcount,
                "sanctions": connection.execute(delete(SANCTIONS).where(SANCTIONS.c.until < now)).rowcount,
            }

    def alive(self) -> bool:
        """Does the database answer?"""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        with self.begin() as connection:
            if self.kind == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATING})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _wal(connection: Any, _: Any) -> None:
    """Readers do not wait for the writer, and a killed process loses nothing that was committed."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
