"""Column types of the PostgreSQL writer, compared with the models."""

from sqlalchemy.dialects import postgresql

from forge_otel.database.models import Base
from forge_otel.database.writing.aggregates import SUMS
from forge_otel.database.writing.postgres import SUM_TYPES


def test_the_types_are_those_of_the_models() -> None:
    """A cast to a shorter type would truncate names silently."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table, columns, _ in SUMS:
        found = Base.metadata.tables[table].c
        assert SUM_TYPES[table] == tuple(found[name].type.compile(dialect) for name in columns)
