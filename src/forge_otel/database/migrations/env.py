"""Alembic's environment; the caller provides the connection, its transaction and its lock."""

from alembic import context

from forge_otel.database import VERSION_TABLE
from forge_otel.database.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    # SQLite can alter most columns only by copying the table.
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
