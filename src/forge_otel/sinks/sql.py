"""The database sink: migrates SQLite or PostgreSQL when it opens, and writes each record once, in batches.

A corrupted SQLite file is renamed and replaced by a new one, into which the queued records are written. A file that was
deleted or replaced is detected at the next batch. PostgreSQL repairs its own files.
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
# A batch takes a fraction of a second; a server that takes longer is treated as unresponsive.
_COMMAND_TIMEOUT_S: Final = 10.0
_BULK_LOAD_ABOVE: Final = 2_000


def open_url(
    url: str, *, retention_days: float | None = None, bulk_load_above: int | None = _BULK_LOAD_ABOVE
) -> "SqlSink":
    """Return the sink for an SQLAlchemy URL such as `sqlite+aiosqlite:///./x.db` or `postgresql+asyncpg://…`."""
    return SqlSink(url, retention_days=retention_days, bulk_load_above=bulk_load_above)


class SqlSink:
    """Sink for generations, their costs and the aggregates.

    Args:
        url: SQLAlchemy URL of an asynchronous driver.
        retention_days: age in days after which rows are deleted; None keeps all rows.
        bulk_load_above: number of queued records above which a separate process writes them to PostgreSQL; None never
            starts it.

    Raises:
        ConfigurationError: the URL is invalid, or names an SQLite database in memory.
    """

    name = "database"
    batch_records = 1_000
    """Maximum size of a batch: large enough to amortize the commit, small enough not to block other writers."""

    def __init__(
        self, url: str, *, retention_days: float | None = None, bulk_load_above: int | None = _BULK_LOAD_ABOVE
    ) -> None:
        parsed = parse_url(url)
        self.bulk_load_above = bulk_load_above
        self.url = parsed.render_as_string(hide_password=False)
        self.damaged_files: list[Path] = []
        """New paths of the corrupted files that this process has renamed, oldest first."""
        self._file = SqliteFile(Path(str(parsed.database))) if parsed.get_backend_name() == "sqlite" else None
        self._engine: AsyncEngine | None = None
        self._is_entered = False
        self._retention_days = retention_days
        self._retention: Periodic | None = None
        self._expired: Counter[str] = Counter()

    @property
    def expired(self) -> Mapping[str, int]:
        """Table to the number of rows that this process has deleted at the end of their retention."""
        return self._expired

    @property
    def engine(self) -> AsyncEngine:
        """Engine for the queries of `forge_otel.database.analytics`.

        Raises:
            NotOpen: the database has not been connected yet.
        """
        if self._engine is None:
            raise NotOpen("the database has not been connected yet; see the log for the reason")
        return self._engine

    async def __aenter__(self) -> Self:
        await self._connect()
        self._is_entered = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_entered = False
        await self._disconnect()

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the records in one transaction; records that are stored already are skipped.

        Raises:
            Rejected: the database rejects the data of the only record.
            Exception: an error of the driver; the database is unavailable, or one of several records is rejected.
        """
        try:
            if self._file is not None and self._is_entered:
                await self._check_file(self._file)
            await write(self.engine, records)
        except Exception as exc:
            if self._file is not None and is_corruption(exc):
                await self._replace(self._file, exc)
            # The outbox splits a batch to find the rejected record.
            if len(records) == 1 and is_data_error(exc):
                raise Rejected(f"the database rejects the record: {exc}") from exc
            raise

    def analytics_engine(self) -> AsyncEngine:
        """Return `engine`; the method of `forge_otel.types.capabilities.SqlDatabase`."""
        return self.engine

    def bulk_load_options(self) -> dict[str, Any] | None:
        """Return the connection options for the bulk-load process; None for SQLite and other drivers than asyncpg."""
        return None if self._file else connect_options(self.engine, command_timeout_s=_COMMAND_TIMEOUT_S)

    async def ping(self) -> None:
        """Execute `SELECT 1`.

        Raises:
            NotOpen, sqlalchemy.exc.SQLAlchemyError, OSError: the database is unavailable.
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

    async def _check_file(self, file: SqliteFile) -> None:
        """Reconnect where the file was deleted or replaced, and replace it where it is corrupted."""
        if self._engine is not None and not await asyncio.to_thread(file.is_current):
            _logger.error(
                "database %s was deleted or replaced while it was open; reconnecting to the file at this path",
                file.path,
            )
            await self._disconnect()
        elif self._engine is not None and not await asyncio.to_thread(file.has_header):
            await self._replace(file, None)
        if self._engine is None:
            await self._connect()

    async def _replace(self, file: SqliteFile, error: Exception | None) -> None:
        await self._disconnect()
        renamed = await asyncio.to_thread(file.rename_corrupted)
        if renamed is not None:
            self.damaged_files.append(renamed)
            reason = "its header is not that of SQLite" if error is None else f"{type(error).__name__}: {error}"
            _logger.error("database is corrupted (%s), renamed to %s; creating a new one", reason, renamed)
