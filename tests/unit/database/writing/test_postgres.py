"""What PostgreSQL is told without the models, against the models."""

from sqlalchemy.dialects import postgresql

from forge_otel.database.models import Base
from forge_otel.database.writing.aggregates import SUMS
from forge_otel.database.writing.postgres import KINDS


def test_the_types_are_those_of_the_models() -> None:
    """A cast to a shorter type would cut names without a word."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table, columns, _ in SUMS:
        found = Base.metadata.tables[table].c
        assert KINDS[table] == tuple(found[name].type.compile(dialect) for name in columns)
