"""The tables. A test keeps them equal to what the migrations build."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()
NUMBER = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up only what it calls INTEGER."""

EVENTS = Table(
    "events",
    METADATA,
    Column("id", NUMBER, primary_key=True, autoincrement=True),
    Column("key", String(40), nullable=False, doc="trace and position; a row written twice is one row"),
    Column("at", Float(53), nullable=False, doc="seconds since 1970"),
    Column("client", String(32), nullable=False, doc="keyed hash"),
    Column("trace", String(32), nullable=False),
    Column("replica", String(16), nullable=False),
    Column("model", String(16), nullable=False, doc="digest, first digits"),
    Column("stack", String(16), nullable=False, doc="digest, first digits"),
    Column("label", Integer, nullable=False),
    Column("top", Text, nullable=False, doc="classes and probabilities, JSON"),
    Column("confidence", Float(53), nullable=False),
    Column("margin", Float(53), nullable=False),
    Column("rough", Float(53), nullable=False),
    Column("scores", Text, nullable=False, doc="of the detectors, JSON"),
    Column("flagged", Boolean, nullable=False),
    Column("decision", String(16), nullable=False),
    Column("thumbnail", LargeBinary, nullable=False, doc="low-pass fingerprint"),
    Column("embedding", LargeBinary, nullable=False),
    Column("latency", Float(53), nullable=False, doc="seconds"),
    Column("picture", Boolean, nullable=False, doc="is it in the quarantine?"),
    UniqueConstraint("key", name="events_key"),
    Index("events_at", "at"),
    Index("events_client", "client", "at"),
)
ALERTS = Table(
    "alerts",
    METADATA,
    Column("key", String(80), primary_key=True, doc="kind and client: what makes two alerts the same"),
    Column("kind", String(24), nullable=False),
    Column("client", String(32), nullable=False),
    Column("severity", String(12), nullable=False),
    Column("said", Text, nullable=False),
    Column("started", Float(53), nullable=False),
    Column("seen", Float(53), nullable=False, doc="last sign"),
    Column("sent", Float(53), nullable=False, doc="last sent; 0: never"),
    Column("resolved", Float(53), nullable=True),
    Column("count", Integer, nullable=False),
    Index("alerts_seen", "seen"),
)
SANCTIONS = Table(
    "sanctions",
    METADATA,
    Column("client", String(32), primary_key=True),
    Column("action", String(12), nullable=False),
    Column("until", Float(53), nullable=False),
    Column("why", Text, nullable=False),
)
VERDICTS = Table(
    "verdicts",
    METADATA,
    Column("key", String(40), primary_key=True, doc="of the event"),
    Column("label", Integer, nullable=False, doc="the true class; -1: not a usable picture"),
    Column("by", String(64), nullable=False),
    Column("at", Float(53), nullable=False),
)
REAUDITS = Table(
    "reaudits",
    METADATA,
    Column("key", String(40), primary_key=True, doc="of one stack and one stretch of time, so that one replica audits"),
    Column("at", Float(53), nullable=False),
    Column("stack", String(16), nullable=False, doc="digest, first digits"),
    Column("state", String(8), nullable=False, doc="running, done or failed"),
    Column("task", String(32), nullable=False, doc="digest of images, labels, threat and effort"),
    Column("stood", Text, nullable=False, doc="image digests with 1 or 0, JSON"),
    Column("share", Float(53), nullable=False),
    Column("verdict", Text, nullable=False),
    Column("worse", Boolean, nullable=False),
    Column("accepted", Boolean, nullable=False, doc="later ones of the same task are measured against this one"),
    Index("reaudits_at", "at"),
)
