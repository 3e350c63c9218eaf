"""The first tables: events, alerts, sanctions, verdicts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text(name: str, length: int | None = None, primary_key: bool = False) -> sa.Column[str]:
    kind = sa.Text() if length is None else sa.String(length)
    return sa.Column(name, kind, primary_key=primary_key, nullable=False)


def _real(name: str, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(53), nullable=nullable)


def upgrade() -> None:
    """One step on."""
    op.create_table(
        "events",
        sa.Column("id", _NUMBER, primary_key=True, autoincrement=True),
        _text("key", 40),
        _real("at"),
        _text("client", 32),
        _text("trace", 32),
        _text("replica", 16),
        _text("model", 16),
        _text("stack", 16),
        sa.Column("label", sa.Integer(), nullable=False),
        _text("top"),
        _real("confidence"),
        _real("margin"),
        _real("rough"),
        _text("scores"),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        _text("decision", 16),
        sa.Column("thumbnail", sa.LargeBinary(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        _real("latency"),
        sa.Column("picture", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("key", name="events_key"),
    )
    op.create_index("events_at", "events", ["at"])
    op.create_index("events_client", "events", ["client", "at"])
    op.create_index("events_decision", "events", ["decision", "at"])
    op.create_table(
        "alerts",
        _text("key", 80, primary_key=True),
        _text("kind", 24),
        _text("client", 32),
        _text("severity", 12),
        _text("said"),
        _real("started"),
        _real("seen"),
        _real("sent"),
        _real("resolved", nullable=True),
        sa.Column("count", sa.Integer(), nullable=False),
    )
    op.create_index("alerts_seen", "alerts", ["seen"])
    op.create_table(
        "sanctions", _text("client", 32, primary_key=True), _text("action", 12), _real("until"), _text("why")
    )
    op.create_table(
        "verdicts",
        _text("key", 40, primary_key=True),
        sa.Column("label", sa.Integer(), nullable=False),
        _text("by", 64),
        _real("at"),
    )


def downgrade() -> None:
    """One step back."""
    for table in ("verdicts", "sanctions", "alerts", "events"):
        op.drop_table(table)
