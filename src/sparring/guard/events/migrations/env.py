"""How Alembic reaches the database: through the connection that `Store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from sparring.guard.events.tables import METADATA

if hasattr(context, "config"):  # run by Alembic, not imported
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
