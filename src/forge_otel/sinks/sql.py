"""Generations as rows in SQLite or PostgreSQL: migrated when opened, written in batches, each generation once.

One transaction inserts those generations of a batch that are new, and only for them the costs and the cache figures of
their minute; a batch that comes twice, or after a crash between commit and answer, changes nothing.
"""

from collections.abc import Sequence
from typing import Self

from forge_otel.database.engine import create_engine, parse_url
from forge_otel.database.migrate import migrate
from forge_otel.database.writing import is_refusal, write
from forge_otel.errors import NotOpen, needs
from forge_otel.sinks import Rejected
from forge_otel.types import Record

with needs("sql"):
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SqlSink", "open_url"]


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
            Exception: of the driver: the database does not take them now.
        """
        try:
            await write(self.engine, records)
        except Exception as exc:
            # Of several records the outbox finds out which one it is.
            if len(records) == 1 and is_refusal(exc):
                raise Rejected(f"the database refuses the record: {exc}") from exc
            raise

    async def ping(self) -> None:
        """Ask the database for nothing.

        Raises:
            NotOpen, sqlalchemy.exc.SQLAlchemyError, OSError: it does not answer.
        """
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
