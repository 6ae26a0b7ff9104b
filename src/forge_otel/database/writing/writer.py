"""Writes a batch of records in one transaction, past the ORM: COPY on PostgreSQL, executemany on SQLite.

Only generations that are not there yet are inserted, and only they are counted in `costs`, `cache_stats` and `rollups`;
so a batch that comes twice, or after a crash between commit and answer, changes nothing. The sums are added to in the
order of their keys, so that two writers lock them in the same order and cannot wait for each other.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from forge_otel.database.errors import is_refusal
from forge_otel.database.writing import postgres
from forge_otel.database.writing.aggregates import SUMS, AggregateRows, add_statement
from forge_otel.database.writing.rollups import ROLLUP_KEYS
from forge_otel.database.writing.row_mapping import (
    CACHE_STAT_COLUMNS,
    COST_COLUMNS,
    GENERATION_COLUMNS,
    MappedRows,
    Row,
)
from forge_otel.errors import needs
from forge_otel.types import Record

with needs("sql"):
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["write"]


async def write(engine: AsyncEngine, records: Iterable[Record]) -> None:
    """Store what is not stored yet, all or nothing.

    Raises:
        ValueError, OverflowError, sqlite3.Error, asyncpg.PostgresError: a record cannot be stored; see `is_refusal`.
        OSError, sqlite3.Error, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError: the database fails.
    """
    # Not on the event loop: a batch takes as long as several requests.
    batch = await asyncio.to_thread(MappedRows.of, records)
    async with engine.connect() as connection:
        store = postgres.store if engine.dialect.name == "postgresql" else _on_sqlite
        driver = (await connection.get_raw_connection()).driver_connection
        try:
            await store(driver, batch)
        except BaseException as exc:
            if not (isinstance(exc, Exception) and is_refusal(exc)):
                # What state it is in nobody knows, and a silent server would not say.
                await _throw_away(connection, driver)
            raise


async def _throw_away(connection: AsyncConnection, driver: Any) -> None:
    if hasattr(driver, "terminate"):
        driver.terminate()
    await connection.invalidate()


async def _on_sqlite(driver: Any, batch: MappedRows) -> None:
    # A transaction that begins by reading cannot become a writer while another one writes.
    await driver.execute("BEGIN IMMEDIATE")
    try:
        ids = [row[0] for row in batch.rows]
        known = {id_ for (id_,) in await driver.execute_fetchall(_KNOWN, (orjson.dumps(ids).decode(),))}
        new = batch.only({*ids} - known)
        await driver.executemany(_INSERT_GENERATION, _texts(new.rows, 1))
        beside = await asyncio.to_thread(AggregateRows, new)
        await driver.executemany(_INSERT_COST, beside.costs)
        await driver.executemany(
            _ADD["cache_stats"], _texts(beside.sums["cache_stats"], CACHE_STAT_COLUMNS.index("minute"))
        )
        await driver.executemany(_ADD["rollups"], _texts(beside.sums["rollups"], ROLLUP_KEYS.index("start")))
        await driver.execute("COMMIT")
    except BaseException:
        await driver.rollback()
        raise


def _texts(rows: Sequence[Row], place: int) -> list[Row]:
    """Spell the moment at `place` as SQLAlchemy does on SQLite."""
    return [(*row[:place], _text(row[place]), *row[place + 1 :]) for row in rows]


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")[:26]


def _marks(columns: Sequence[str]) -> str:
    return f"VALUES ({', '.join('?' * len(columns))})"


_COLUMNS: Final = ", ".join(GENERATION_COLUMNS)
_KNOWN: Final = "SELECT id FROM generations WHERE id IN (SELECT value FROM json_each(?))"
_INSERT_GENERATION: Final = f"INSERT INTO generations ({_COLUMNS}) {_marks(GENERATION_COLUMNS)}"
_INSERT_COST: Final = f"INSERT INTO costs ({', '.join(COST_COLUMNS)}) {_marks(COST_COLUMNS)}"
_ADD: Final = {table: add_statement(table, columns, keys=keys, source=_marks(columns)) for table, columns, keys in SUMS}
