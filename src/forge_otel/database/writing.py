"""Writes a batch of records in one transaction, past the ORM: COPY on PostgreSQL, executemany on SQLite.

Only generations that are not there yet are inserted, and only they are counted in `costs`, `cache_stats` and `rollups`;
so a batch that comes twice, or after a crash between commit and answer, changes nothing. The sums are added to in the
order of their keys, so that two writers lock them in the same order and cannot wait for each other.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import orjson

from forge_otel.database.models import Base
from forge_otel.database.rollups import ROLLUP_COLUMNS, ROLLUP_KEYS, rollup_rows
from forge_otel.database.rows import (
    CACHE_STAT_COLUMNS,
    COST_COLUMNS,
    GENERATION_COLUMNS,
    Row,
    cache_stat_rows,
    cost_rows,
    generation_row,
)
from forge_otel.errors import needs
from forge_otel.types import Record

with needs("sql"):
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["is_refusal", "write"]

_INCOMING: Final = "forge_incoming"
_POSTGRESQL: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
# Table, columns, how many of them are its key; the others are added up.
_SUMS: Final = (("cache_stats", CACHE_STAT_COLUMNS, 3), ("rollups", ROLLUP_COLUMNS, len(ROLLUP_KEYS)))
# SQLSTATE classes "data exception" and "integrity constraint violation".
_REFUSALS: Final = ("22", "23")
_UNIQUE_VIOLATION: Final = "23505"
_AT_ONCE: Final = 50

Rows = Sequence[Row]
T = TypeVar("T")


async def write(engine: AsyncEngine, records: Iterable[Record]) -> None:
    """Store what is not stored yet, all or nothing.

    Raises:
        ValueError, OverflowError, sqlite3.Error, asyncpg.PostgresError: a record cannot be stored; see `is_refusal`.
        OSError, sqlite3.Error, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError: the database fails.
    """
    # In the order of their ids, so that two writers of the same records lock them in the same order.
    unique = {record.id: record for record in sorted(records, key=lambda record: record.id)}
    # Not on the event loop: a batch takes as long as several requests.
    rows = await asyncio.to_thread(lambda: [generation_row(record) for record in unique.values()])
    async with engine.connect() as connection:
        store = _on_postgresql if engine.dialect.name == "postgresql" else _on_sqlite
        driver = (await connection.get_raw_connection()).driver_connection
        try:
            await store(driver, unique, rows)
        except BaseException as exc:
            if not (isinstance(exc, Exception) and is_refusal(exc)):
                # What state it is in nobody knows, and a silent server would not say.
                await _throw_away(connection, driver)
            raise


def is_refusal(exc: Exception) -> bool:
    """Say whether `exc` means the record: the database would take another one."""
    if isinstance(exc, ValueError | OverflowError | sqlite3.IntegrityError | sqlite3.DataError):
        return True
    return str(getattr(exc, "sqlstate", None) or "").startswith(_REFUSALS)


async def _throw_away(connection: AsyncConnection, driver: Any) -> None:
    if hasattr(driver, "terminate"):
        driver.terminate()
    await connection.invalidate()


async def _on_postgresql(driver: Any, records: Mapping[str, Record], rows: Rows) -> None:
    try:
        async with driver.transaction():
            copying = driver.copy_records_to_table("generations", records=_gently(rows), columns=GENERATION_COLUMNS)
            await _write_beside(driver, await _meanwhile(copying, lambda: _Beside(records.values())))
    except Exception as exc:
        if getattr(exc, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        # Some are there already, as after a crash between commit and answer: the longer way round.
        async with driver.transaction():
            await driver.execute(_MAKE_INCOMING)
            await driver.copy_records_to_table(_INCOMING, records=_gently(rows), columns=GENERATION_COLUMNS)
            taken = await driver.fetch(_TAKE_INCOMING)
            await _write_beside(driver, _Beside([records[row[0]] for row in taken]))


async def _meanwhile(waited_for: Coroutine[Any, Any, object], compute: Callable[[], T]) -> T:
    """Return what `compute` returns, having computed it while the server is at work."""
    working = asyncio.ensure_future(waited_for)
    try:
        found = await asyncio.to_thread(compute)
    except Exception:
        await asyncio.wait({working})
        raise
    except BaseException:
        working.cancel()
        raise
    await working
    return found


async def _gently(rows: Rows) -> AsyncIterator[Row]:
    """Let the requests of callers in between."""
    for number, row in enumerate(rows, 1):
        yield row
        if not number % _AT_ONCE:
            await asyncio.sleep(0)


async def _write_beside(driver: Any, beside: "_Beside") -> None:
    if beside.costs:
        await driver.copy_records_to_table("costs", records=_gently(beside.costs), columns=COST_COLUMNS)
    for table, sums in beside.sums.items():
        if sums:
            await driver.execute(_ADD_ARRAYS[table], *zip(*sums, strict=True))


class _Beside:
    """What is written beside the generations that are new."""

    def __init__(self, records: Collection[Record]) -> None:
        self.costs = [row for record in records for row in cost_rows(record)]
        self.sums = {"cache_stats": cache_stat_rows(records), "rollups": rollup_rows(records)}


async def _on_sqlite(driver: Any, records: Mapping[str, Record], rows: Rows) -> None:
    # A transaction that begins by reading cannot become a writer while another one writes.
    await driver.execute("BEGIN IMMEDIATE")
    try:
        known = {id_ for (id_,) in await driver.execute_fetchall(_KNOWN, (orjson.dumps([*records]).decode(),))}
        new = [record for record in records.values() if record.id not in known]
        await driver.executemany(_INSERT_GENERATION, _texts([row for row in rows if row[0] not in known], 1))
        beside = await asyncio.to_thread(_Beside, new)
        await driver.executemany(_INSERT_COST, beside.costs)
        await driver.executemany(
            _ADD_ROW["cache_stats"], _texts(beside.sums["cache_stats"], CACHE_STAT_COLUMNS.index("minute"))
        )
        await driver.executemany(_ADD_ROW["rollups"], _texts(beside.sums["rollups"], ROLLUP_KEYS.index("start")))
        await driver.execute("COMMIT")
    except BaseException:
        await driver.rollback()
        raise


def _texts(rows: Rows, place: int) -> list[Row]:
    """Spell the moment at `place` as SQLAlchemy does on SQLite."""
    return [(*row[:place], _text(row[place]), *row[place + 1 :]) for row in rows]


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")[:26]


def _add(table: str, columns: Sequence[str], keys: int, source: str) -> str:
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in columns[keys:])
    conflict = f"ON CONFLICT ({', '.join(columns[:keys])}) DO UPDATE SET {sums}"
    return f"INSERT INTO {table} ({', '.join(columns)}) {source} {conflict}"


def _marks(columns: Sequence[str]) -> str:
    return f"VALUES ({', '.join('?' * len(columns))})"


def _arrays(table: str, columns: Sequence[str]) -> str:
    found = Base.metadata.tables[table].c
    kinds = (found[name].type.compile(_POSTGRESQL) for name in columns)
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(kinds, 1))
    return f"SELECT * FROM unnest({arrays})"  # noqa: S608 - names of ours


_COLUMNS: Final = ", ".join(GENERATION_COLUMNS)
_MAKE_INCOMING: Final = (
    f"CREATE TEMP TABLE IF NOT EXISTS {_INCOMING} (LIKE generations INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
)
_TAKE_INCOMING: Final = (
    f"INSERT INTO generations ({_COLUMNS}) SELECT {_COLUMNS} FROM {_INCOMING} "  # noqa: S608 - names of ours
    "ON CONFLICT (id) DO NOTHING RETURNING id"
)
_KNOWN: Final = "SELECT id FROM generations WHERE id IN (SELECT value FROM json_each(?))"
_INSERT_GENERATION: Final = f"INSERT INTO generations ({_COLUMNS}) {_marks(GENERATION_COLUMNS)}"
_INSERT_COST: Final = f"INSERT INTO costs ({', '.join(COST_COLUMNS)}) {_marks(COST_COLUMNS)}"
_ADD_ROW: Final = {table: _add(table, columns, keys, _marks(columns)) for table, columns, keys in _SUMS}
_ADD_ARRAYS: Final = {table: _add(table, columns, keys, _arrays(table, columns)) for table, columns, keys in _SUMS}
