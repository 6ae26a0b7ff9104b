"""The helper for a host's own Alembic."""

from sqlalchemy import Column, Index, Integer, MetaData, Table

from forge_otel.database import include_object


def test_only_our_tables_and_their_indexes_are_left_out() -> None:
    """A host's tables, columns and indexes stay in its autogenerate."""
    metadata = MetaData()
    ours = Table("generations", metadata, Column("id", Integer))
    theirs = Table("orders", metadata, Column("id", Integer))

    assert not include_object(ours, "generations", "table", True, None)
    assert not include_object(Index("ix", ours.c.id), "ix", "index", True, None)
    assert not include_object(None, "forge_otel_version", "table", True, None)
    assert include_object(theirs, "orders", "table", True, None)
    assert include_object(Index("ix", theirs.c.id), "ix", "index", True, None)
    assert include_object(theirs.c.id, "id", "column", False, None)
