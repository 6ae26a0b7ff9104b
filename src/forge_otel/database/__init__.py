"""Every generation as rows, in SQLite or PostgreSQL: tables, migrations, and the questions asked of them.

A host application whose own Alembic runs `--autogenerate` in the same database passes `include_object` to
`context.configure`; else Alembic proposes to drop our tables.
"""

from typing import Any, Final

__all__ = ["TABLES", "VERSION_TABLE", "include_object"]

VERSION_TABLE: Final = "forge_otel_version"
TABLES: Final = frozenset({"cache_stats", "costs", "generations", "rollups", VERSION_TABLE})


def include_object(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Tell Alembic to leave our tables and their indexes alone; its arguments are Alembic's."""
    del reflected, compare_to
    owner = name if kind == "table" else getattr(getattr(item, "table", None), "name", None)
    return owner not in TABLES
