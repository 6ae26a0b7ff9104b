"""The database: tables, migrations, writing of records, analytics and retention, on SQLite and PostgreSQL.

The sink that uses it is in `forge_otel.sinks.sql`. A host application whose own Alembic runs `--autogenerate` in the
same database passes `include_object` to `context.configure`.
"""

from typing import Any, Final

__all__ = ["TABLES", "VERSION_TABLE", "include_object"]

VERSION_TABLE: Final = "forge_otel_version"
TABLES: Final = frozenset({"cache_stats", "costs", "generations", "rollups", VERSION_TABLE})


def include_object(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Exclude our tables and their indexes from Alembic's autogenerate; the arguments are those of Alembic's hook."""
    # Autogenerate drops every table that the host's models do not declare. An index is excluded by its table, because
    # Alembic reports it separately.
    del reflected, compare_to
    owner = name if kind == "table" else getattr(getattr(item, "table", None), "name", None)
    return owner not in TABLES
