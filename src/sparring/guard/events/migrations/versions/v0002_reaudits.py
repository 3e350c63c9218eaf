"""Re-audits; and no index on decisions, which nothing reads and every event paid for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """One step on."""
    op.drop_index("events_decision", table_name="events")
    texts = {
        "stack": sa.String(16),
        "state": sa.String(8),
        "task": sa.String(32),
        "stood": sa.Text(),
        "verdict": sa.Text(),
    }
    op.create_table(
        "reaudits",
        sa.Column("key", sa.String(40), primary_key=True, nullable=False),
        *(sa.Column(name, kind, nullable=False) for name, kind in texts.items()),
        *(sa.Column(name, sa.Float(53), nullable=False) for name in ("at", "share")),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("worse", "accepted")),
    )
    op.create_index("reaudits_at", "reaudits", ["at"])
