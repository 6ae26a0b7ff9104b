"""Generations as rows in SQLite or PostgreSQL: migrated when opened, written in batches, each generation once.

An SQLite file that turns out to be damaged is set aside, and a new one takes what waits; one that somebody has removed
or replaced is noticed with the next batch. What PostgreSQL's files look like is PostgreSQL's own affair.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, Final, Self

from forge_otel._internal.periodic import Periodic
from forge_otel.database.engine import connect_options, create_engine, parse_url
from forge_otel.database.errors import is_corruption, is_data_error
from forge_otel.database.migrate import migrate
from forge_otel.database.retention import retention
from forge_otel.database.sqlite_file import SqliteFile
from forge_otel.database.writing.writer import write
from forge_otel.errors import NotOpen, Rejected, needs
from forge_otel.types import Record

with needs("sql"):
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SqlSink", "open_url"]

_logger = getLogger(__name__)
# A server that has gone silent is given up after this; a batch takes a fraction of a second.
_COMMAND_TIMEOUT_S: Final = 10.0
_BULK_LOAD_ABOVE: Final = 2_000


def open_url(
    url: str, *, retention_days: float | None = None, bulk_load_above: int | None = _BULK_LOAD_ABOVE
) -> "SqlSink":
    """Return the sink for an SQLAlchemy URL such as `sqlite+aiosqlite:///./x.db` or `postgresql+asyncpg://…`."""
    return SqlSink(url, retention_days=retention_days, bulk_load_above=bulk_load_above)


class SqlSink:
    """Stores generations, their costs and the cache figures.

    Args:
        url: SQLAlchemy URL of an asynchronous driver.
        retention_days: how long everything is kept; None keeps it for ever.
        bulk_load_above: number of queued records above which a separate process writes them to PostgreSQL; None never
            starts it.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    name = "database"
    batch_records = 1_000
    """What one transaction takes at most: enough that its commit costs little, few enough to let others in between."""

    def __init__(
        self, url: str, *, retention_days: float | None = None, bulk_load_above: int | None = _BULK_LOAD_ABOVE
    ) -> None:
        parsed = parse_url(url)
        self.bulk_load_above = bulk_load_above
        self.url = parsed.render_as_string(hide_password=False)
        self.damaged_files: list[Path] = []
        """Damaged files that this process has put out of the way, the last ones last."""
        self._file = SqliteFile(Path(str(parsed.database))) if parsed.get_backend_name() == "sqlite" else None
        self._engine: AsyncEngine | None = None
        self._is_entered = False
        self._retention_days = retention_days
        self._retention: Periodic | None = None
        self._expired: Counter[str] = Counter()

    @property
    def expired_rows(self) -> Mapping[str, int]:
        """Table to the number of rows that this process has deleted because they were too old."""
        return self._expired

    @property
    def engine(self) -> AsyncEngine:
        """The engine, for `forge_otel.database.analytics.queries`.

        Raises:
            NotOpen: the database has not been reached yet.
        """
        if self._engine is None:
            raise NotOpen("the database has not been reached yet; the log says why if this lasts")
        return self._engine

    async def __aenter__(self) -> Self:
        await self._connect()
        self._is_entered = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_entered = False
        await self._disconnect()

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the records in one transaction; those that are stored already change nothing.

        Raises:
            Rejected: the only record holds something that the database refuses.
            Exception: of the driver: the database does not take them now.
        """
        try:
            if self._file is not None and self._is_entered:
                await self._look_at(self._file)
            await write(self.engine, records)
        except Exception as exc:
            if self._file is not None and is_corruption(exc):
                await self._replace(self._file, exc)
            # Of several records the outbox finds out which one it is.
            if len(records) == 1 and is_data_error(exc):
                raise Rejected(f"the database refuses the record: {exc}") from exc
            raise

    def analytics_engine(self) -> AsyncEngine:
        """Return `engine`, as `forge_otel.types.capabilities.SupportsAnalytics` asks for it."""
        return self.engine

    def bulk_load_options(self) -> dict[str, Any] | None:
        """Return what another process needs to store records as `deliver` does; None where it could not."""
        return None if self._file else connect_options(self.engine, command_timeout_s=_COMMAND_TIMEOUT_S)

    async def ping(self) -> None:
        """Ask the database for nothing.

        Raises:
            NotOpen, sqlalchemy.exc.SQLAlchemyError, OSError: it does not answer.
        """
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def _connect(self) -> None:
        try:
            await migrate(self.url)
        except Exception as exc:
            if self._file is None or not is_corruption(exc):
                raise
            await self._replace(self._file, exc)
            await migrate(self.url)
        if self._file is not None:
            await asyncio.to_thread(self._file.remember)
        self._engine = create_engine(self.url, command_timeout_s=_COMMAND_TIMEOUT_S)
        if self._retention_days is not None:
            self._retention = retention(self._engine, days=self._retention_days, deleted=self._expired)
            self._retention.start()

    async def _disconnect(self) -> None:
        engine, self._engine = self._engine, None
        expiring, self._retention = self._retention, None
        if expiring is not None:
            await expiring.stop()
        if engine is not None:
            await engine.dispose()

    async def _look_at(self, file: SqliteFile) -> None:
        """Go on with a new file where the old one is gone or no database any more."""
        if self._engine is not None and not await asyncio.to_thread(file.is_there):
            _logger.error(
                "the database %s was removed or replaced while it was open; going on with what is there", file.path
            )
            await self._disconnect()
        elif self._engine is not None and not await asyncio.to_thread(file.is_whole):
            await self._replace(file, None)
        if self._engine is None:
            await self._connect()

    async def _replace(self, file: SqliteFile, why: Exception | None) -> None:
        await self._disconnect()
        kept = await asyncio.to_thread(file.set_aside)
        if kept is not None:
            self.damaged_files.append(kept)
            reason = "it does not begin like one" if why is None else f"{type(why).__name__}: {why}"
            _logger.error("the database is damaged (%s); it was set aside as %s, and a new one is made", reason, kept)
