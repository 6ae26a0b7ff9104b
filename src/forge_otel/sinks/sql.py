"""Generations as rows in SQLite or PostgreSQL: migrated when opened, written in batches, each generation once.

One transaction inserts those generations of a batch that are new, and only for them the costs and the cache figures of
their minute; a batch that comes twice, or after a crash between commit and answer, changes nothing.
"""

from collections.abc import Sequence
from typing import Final, Self

from forge_otel.database.engine import create_engine, parse_url
from forge_otel.database.migrate import migrate
from forge_otel.database.models import Base
from forge_otel.database.rows import Row, cache_stat_rows, cost_rows, generation_row
from forge_otel.errors import NotOpen, needs
from forge_otel.sinks import Rejected
from forge_otel.types import Record

with needs("sql"):
    from sqlalchemy import insert, text
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["SqlSink", "open_url"]

_GENERATIONS: Final = Base.metadata.tables["generations"]
_COSTS: Final = Base.metadata.tables["costs"]
_CACHE_STATS: Final = Base.metadata.tables["cache_stats"]
# SQLSTATE classes "data exception" and "integrity constraint violation".
_REFUSALS: Final = ("22", "23")


def open_url(url: str) -> "SqlSink":
    """Return the sink for an SQLAlchemy URL such as ``sqlite+aiosqlite:///./x.db`` or ``postgresql+asyncpg://…``."""
    return SqlSink(url)


class SqlSink:
    """Stores generations, their costs and the cache figures.

    Args:
        url: SQLAlchemy URL of an asynchronous driver.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    name = "database"

    def __init__(self, url: str) -> None:
        self.url = parse_url(url).render_as_string(hide_password=False)
        self._engine: AsyncEngine | None = None

    @property
    def engine(self) -> AsyncEngine:
        """The engine, for `forge_otel.database.analytics`.

        Raises:
            NotOpen: the database has not been reached yet.
        """
        if self._engine is None:
            raise NotOpen("the database has not been reached yet; the log says why if this lasts")
        return self._engine

    async def __aenter__(self) -> Self:
        await migrate(self.url)
        self._engine = create_engine(self.url)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the records in one transaction; those that are stored already change nothing.

        Raises:
            Rejected: the only record holds something that the database refuses.
            sqlalchemy.exc.SQLAlchemyError, OSError: the database does not take them now.
        """
        # In the order of their ids, so that two writers of the same records lock them in the same order.
        unique = {record.id: record for record in sorted(records, key=lambda record: record.id)}
        try:
            rows = [generation_row(record) for record in unique.values()]
            await self._write(unique, rows)
        except (StatementError, ValueError, OverflowError) as exc:
            # Of several records the outbox finds out which one it is.
            if len(records) == 1 and _is_refusal(exc):
                raise Rejected(f"the database refuses the record: {exc}") from exc
            raise

    async def ping(self) -> None:
        """Ask the database for nothing.

        Raises:
            NotOpen, sqlalchemy.exc.SQLAlchemyError, OSError: it does not answer.
        """
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def _write(self, records: dict[str, Record], rows: list[Row]) -> None:
        async with self.engine.connect() as connection:
            # A transaction that begins by reading cannot become a writer on SQLite while another one writes.
            await connection.execution_options(sqlite_begin="IMMEDIATE")
            async with connection.begin():
                new_ids = await _insert_new(connection, rows)
                new = [record for record in records.values() if record.id in new_ids]
                if costs := [row for record in new for row in cost_rows(record)]:
                    await connection.execute(insert(_COSTS), costs)
                if stats := cache_stat_rows(new):
                    await _add_cache_stats(connection, stats)


async def _insert_new(connection: AsyncConnection, rows: list[Row]) -> set[str]:
    """Insert the generations that are not there, and return their ids."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(_GENERATIONS).on_conflict_do_nothing(index_elements=["id"]).returning(_GENERATIONS.c.id)
    return set((await connection.execute(statement, rows)).scalars())


async def _add_cache_stats(connection: AsyncConnection, rows: list[Row]) -> None:
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(_CACHE_STATS)
    keys = ["minute", "layer", "component_type"]
    sums = {name: _CACHE_STATS.c[name] + statement.excluded[name] for name in ("requests", "hits", "saved_nano_usd")}
    await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=sums), rows)


def _is_refusal(exc: Exception) -> bool:
    """Say whether the database answered, and means this record."""
    if not isinstance(exc, DBAPIError):
        return True
    sqlstate = str(getattr(exc.orig, "sqlstate", None) or "")
    return isinstance(exc, DataError | IntegrityError) or sqlstate.startswith(_REFUSALS)
