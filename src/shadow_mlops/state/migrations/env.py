"""What Alembic runs: migrations inside the transaction that the caller has begun."""

from __future__ import annotations

from alembic import context

from shadow_mlops.state.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,  # the database may be the registry's, which has a table of Alembic's usual name
    render_as_batch=True,  # SQLite changes few columns in place
)
with context.begin_transaction():
    context.run_migrations()
