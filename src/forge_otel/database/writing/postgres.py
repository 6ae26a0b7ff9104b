"""Writes a batch of records to PostgreSQL in one transaction, by COPY.

It needs a connection of asyncpg and nothing else, so that a process that only drains a backlog stays small.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from forge_otel.database.writing.aggregates import SUMS, AggregateRows, add_statement
from forge_otel.database.writing.row_mapping import COST_COLUMNS, GENERATION_COLUMNS, MappedRows, Row

__all__ = ["KINDS", "store"]

KINDS: Final = {
    "cache_stats": (
        *("TIMESTAMP WITH TIME ZONE", "VARCHAR(32)", "VARCHAR(256)"),
        *("BIGINT", "BIGINT", "BIGINT"),
    ),
    "rollups": (
        *("SMALLINT", "VARCHAR(16)", "VARCHAR(256)", "TIMESTAMP WITH TIME ZONE", "VARCHAR(256)", "INTEGER"),
        *("BIGINT", "BIGINT", "BIGINT", "BIGINT"),
    ),
}
"""Types of the columns that are added up, as `forge_otel.database.models` has them."""

_INCOMING: Final = "forge_incoming"
_UNIQUE_VIOLATION: Final = "23505"
_AT_ONCE: Final = 50

T = TypeVar("T")
Rows = Sequence[Row]


async def store(driver: Any, batch: MappedRows, *, is_gentle: bool = True) -> None:
    """Store what is not stored yet, all or nothing.

    Args:
        driver: a connection of asyncpg.
        batch: the rows.
        is_gentle: let the requests of callers in between.

    Raises:
        ValueError, OverflowError, asyncpg.PostgresError: a record cannot be stored; see `refusal.is_refusal`.
        OSError, asyncpg.PostgresError: the database fails.
    """
    paced = _gently if is_gentle else _at_once
    try:
        async with driver.transaction():
            copying = driver.copy_records_to_table("generations", records=paced(batch.rows), columns=GENERATION_COLUMNS)
            await _write_beside(driver, await _meanwhile(copying, lambda: AggregateRows(batch)), paced)
    except Exception as exc:
        if getattr(exc, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        # Some are there already, as after a crash between commit and answer: the longer way round.
        async with driver.transaction():
            await driver.execute(_MAKE_INCOMING)
            await driver.copy_records_to_table(_INCOMING, records=paced(batch.rows), columns=GENERATION_COLUMNS)
            taken = await driver.fetch(_TAKE_INCOMING)
            await _write_beside(driver, AggregateRows(batch.only({row[0] for row in taken})), paced)


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


def _at_once(rows: Rows) -> Rows:
    return rows


async def _gently(rows: Rows) -> AsyncIterator[Row]:
    for number, row in enumerate(rows, 1):
        yield row
        if not number % _AT_ONCE:
            await asyncio.sleep(0)


async def _write_beside(driver: Any, beside: AggregateRows, paced: Callable[[Rows], Rows | AsyncIterator[Row]]) -> None:
    if beside.costs:
        await driver.copy_records_to_table("costs", records=paced(beside.costs), columns=COST_COLUMNS)
    for table, sums in beside.sums.items():
        if sums:
            await driver.execute(_ADD[table], *zip(*sums, strict=True))


def _arrays(kinds: Sequence[str]) -> str:
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
_ADD: Final = {
    table: add_statement(table, columns, keys=keys, source=_arrays(KINDS[table])) for table, columns, keys in SUMS
}
