"""Writer of record batches: one transaction, without the ORM; COPY on PostgreSQL, executemany on SQLite.

Only generations that are not stored yet are inserted and counted in `costs`, `cache_stats` and `rollups`, so delivering
a batch again changes nothing.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from forge_otel.database.errors import is_data_error
from forge_otel.database.writing import postgres
from forge_otel.database.writing.aggregates import CACHE_STAT_COLUMNS, ROLLUP_KEYS, SUMS, AggregateRows, add_statement
from forge_otel.database.writing.row_mapping import COST_COLUMNS, GENERATION_COLUMNS, MappedRows, Row
from forge_otel.errors import needs
from forge_otel.types import Record

with needs("sql"):
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["write"]


async def write(engine: AsyncEngine, records: Iterable[Record]) -> None:
    """Store the records that are not stored yet, in one transaction.

    Raises:
        ValueError, OverflowError, sqlite3.Error, asyncpg.PostgresError: a record was rejected; see `is_data_error`.
        OSError, sqlite3.Error, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError: the database fails.
    """
    # In a thread, because mapping a batch takes as long as serving several requests.
    batch = await asyncio.to_thread(MappedRows.of, records)
    async with engine.connect() as connection:
        store = postgres.store if engine.dialect.name == "postgresql" else _on_sqlite
        driver = (await connection.get_raw_connection()).driver_connection
        try:
            await store(driver, batch)
        except BaseException as exc:
            if not (isinstance(exc, Exception) and is_data_error(exc)):
                # The connection is in an unknown state, and a rollback would hang on an unresponsive server.
                await _discard(connection, driver)
            raise


async def _discard(connection: AsyncConnection, driver: Any) -> None:
    if hasattr(driver, "terminate"):
        driver.terminate()
    await connection.invalidate()


async def _on_sqlite(driver: Any, batch: MappedRows) -> None:
    # A deferred transaction that began with a read fails when it is upgraded while another one writes.
    await driver.execute("BEGIN IMMEDIATE")
    try:
        ids = [row[0] for row in batch.rows]
        known = {id_ for (id_,) in await driver.execute_fetchall(_KNOWN, (orjson.dumps(ids).decode(),))}
        new = batch.only({*ids} - known)
        await driver.executemany(_INSERT_GENERATION, _texts(new.rows, 1))
        aggregates = await asyncio.to_thread(AggregateRows, new)
        await driver.executemany(_INSERT_COST, aggregates.costs)
        await driver.executemany(
            _ADD["cache_stats"], _texts(aggregates.sums["cache_stats"], CACHE_STAT_COLUMNS.index("minute"))
        )
        await driver.executemany(_ADD["rollups"], _texts(aggregates.sums["rollups"], ROLLUP_KEYS.index("start")))
        await driver.execute("COMMIT")
    except BaseException:
        await driver.rollback()
        raise


def _texts(rows: Sequence[Row], index: int) -> list[Row]:
    """Format the timestamp at `index` as SQLAlchemy does on SQLite."""
    return [(*row[:index], _text(row[index]), *row[index + 1 :]) for row in rows]


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")[:26]


def _marks(columns: Sequence[str]) -> str:
    return f"VALUES ({', '.join('?' * len(columns))})"


_COLUMNS: Final = ", ".join(GENERATION_COLUMNS)
# One parameter for all ids: SQLite allows 32,766 in a statement by default.
_KNOWN: Final = "SELECT id FROM generations WHERE id IN (SELECT value FROM json_each(?))"
_INSERT_GENERATION: Final = f"INSERT INTO generations ({_COLUMNS}) {_marks(GENERATION_COLUMNS)}"
_INSERT_COST: Final = f"INSERT INTO costs ({', '.join(COST_COLUMNS)}) {_marks(COST_COLUMNS)}"
_ADD: Final = {table: add_statement(table, columns, keys=keys, source=_marks(columns)) for table, columns, keys in SUMS}
