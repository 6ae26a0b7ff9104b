"""Writer of record batches to PostgreSQL by COPY, in one transaction."""

# Neither SQLAlchemy nor SQLModel is imported here, so that the bulk-load process, which imports this module, stays
# small.
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from forge_otel.database.writing.aggregates import SUMS, AggregateRows, add_statement
from forge_otel.database.writing.row_mapping import COST_COLUMNS, GENERATION_COLUMNS, MappedRows, Row

__all__ = ["SUM_TYPES", "store"]

SUM_TYPES: Final = {
    "cache_stats": (
        *("TIMESTAMP WITH TIME ZONE", "VARCHAR(32)", "VARCHAR(256)"),
        *("BIGINT", "BIGINT", "BIGINT"),
    ),
    "rollups": (
        *("SMALLINT", "VARCHAR(16)", "VARCHAR(256)", "TIMESTAMP WITH TIME ZONE", "VARCHAR(256)", "INTEGER"),
        *("BIGINT", "BIGINT", "BIGINT", "BIGINT"),
    ),
}
"""PostgreSQL types of the tables of sums, equal to those of `forge_otel.database.models` (a test compares them)."""

_INCOMING: Final = "forge_incoming"
_UNIQUE_VIOLATION: Final = "23505"
_ROWS_BETWEEN_YIELDS: Final = 50

T = TypeVar("T")
Rows = Sequence[Row]


async def store(driver: Any, batch: MappedRows, *, yields_often: bool = True) -> None:
    """Store the generations that are not stored yet, in one transaction.

    Args:
        driver: a connection of asyncpg.
        batch: the rows.
        yields_often: yield to the event loop every few rows, so that concurrent requests are served meanwhile.

    Raises:
        ValueError, OverflowError, asyncpg.PostgresError: a record was rejected; see `is_data_error`.
        OSError, asyncpg.PostgresError: the database fails.
    """
    paced = _yielding if yields_often else _unchanged
    try:
        async with driver.transaction():
            copying = driver.copy_records_to_table("generations", records=paced(batch.rows), columns=GENERATION_COLUMNS)
            await _write_aggregates(driver, await _meanwhile(copying, lambda: AggregateRows(batch)), paced)
    except Exception as exc:
        if getattr(exc, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        # Some are stored already, as after a crash between commit and acknowledgement: go through a temporary table.
        async with driver.transaction():
            await driver.execute(_MAKE_INCOMING)
            await driver.copy_records_to_table(_INCOMING, records=paced(batch.rows), columns=GENERATION_COLUMNS)
            taken = await driver.fetch(_TAKE_INCOMING)
            await _write_aggregates(driver, AggregateRows(batch.only({row[0] for row in taken})), paced)


async def _meanwhile(request: Coroutine[Any, Any, object], compute: Callable[[], T]) -> T:
    """Run `compute` in a thread while the server processes `request`, and return its result."""
    running = asyncio.ensure_future(request)
    try:
        computed = await asyncio.to_thread(compute)
    except Exception:
        # asyncpg refuses a rollback while another operation is in progress on the connection.
        await asyncio.wait({running})
        raise
    except BaseException:
        running.cancel()
        raise
    await running
    return computed


def _unchanged(rows: Rows) -> Rows:
    return rows


async def _yielding(rows: Rows) -> AsyncIterator[Row]:
    for number, row in enumerate(rows, 1):
        yield row
        if not number % _ROWS_BETWEEN_YIELDS:
            await asyncio.sleep(0)


async def _write_aggregates(
    driver: Any, aggregates: AggregateRows, paced: Callable[[Rows], Rows | AsyncIterator[Row]]
) -> None:
    if aggregates.costs:
        await driver.copy_records_to_table("costs", records=paced(aggregates.costs), columns=COST_COLUMNS)
    for table, sums in aggregates.sums.items():
        if sums:
            await driver.execute(_ADD[table], *zip(*sums, strict=True))


def _unnested(types: Sequence[str]) -> str:
    # One array for each column: a parameter for each value would reach the limit of a statement, 65,535.
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
    return f"SELECT * FROM unnest({arrays})"  # noqa: S608 - constants


_COLUMNS: Final = ", ".join(GENERATION_COLUMNS)
_MAKE_INCOMING: Final = (
    f"CREATE TEMP TABLE IF NOT EXISTS {_INCOMING} (LIKE generations INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
)
_TAKE_INCOMING: Final = (
    f"INSERT INTO generations ({_COLUMNS}) SELECT {_COLUMNS} FROM {_INCOMING} "  # noqa: S608 - constants
    "ON CONFLICT (id) DO NOTHING RETURNING id"
)
_ADD: Final = {
    table: add_statement(table, columns, keys=keys, source=_unnested(SUM_TYPES[table])) for table, columns, keys in SUMS
}
