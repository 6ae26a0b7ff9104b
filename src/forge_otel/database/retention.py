"""Retention: deletes the rows of old days in the background, in small transactions, in one worker at a time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from forge_otel._internal.file_lock import try_lock
from forge_otel._internal.periodic import Periodic
from forge_otel.database.models import Base
from forge_otel.database.rollups import DAY, FACETS, HOUR
from forge_otel.errors import needs

with needs("sql"):
    from sqlalchemy import delete, func, select, text
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["expire", "retention"]

_GENERATIONS, _COSTS, _STATS, _ROLLUPS = (
    Base.metadata.tables[name] for name in ("generations", "costs", "cache_stats", "rollups")
)
_CHUNK: Final = 1_000
_PAUSE_S: Final = 0.05
# Identifies our advisory lock among those of other programs: "forgereT" in ASCII.
_LOCK_ID: Final = 0x666F726765726554


def retention(engine: AsyncEngine, *, days: float, deleted: Counter[str], **schedule: float) -> Periodic:
    """Return the periodic deletion.

    Args:
        engine: of our database.
        days: age in days after which rows are deleted.
        deleted: counts the deleted rows of each table.
        schedule: `first_after_s` and `every_s` of `Periodic`.
    """

    async def work() -> None:
        await expire(engine, datetime.now(UTC) - timedelta(days=days), deleted)

    return Periodic(work, name="forge-retention", failing="old generations could not be deleted", **schedule)


async def expire(engine: AsyncEngine, before: datetime, deleted: Counter[str] | None = None) -> Counter[str]:
    """Delete the rows of all days before that of `before`, in UTC; do nothing while another worker does it.

    Args:
        engine: of our database.
        before: aware.
        deleted: counter to add to while the deletion runs.

    Returns:
        Table to the number of deleted rows.
    """
    # Whole days, so that the rollups of a day always match its generations.
    cutoff = before.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    counts: Counter[str] = Counter() if deleted is None else deleted
    async with _try_lock(engine) as is_acquired:
        while is_acquired and await _delete_generations(engine, cutoff, counts):
            pass
        while is_acquired and await _delete_stats(engine, cutoff, counts):
            pass
        for hours in (HOUR, DAY) if is_acquired else ():
            for facet in FACETS:
                within = (_ROLLUPS.c.hours == hours, _ROLLUPS.c.facet == facet, _ROLLUPS.c.start < cutoff)
                counts["rollups"] += await _execute(engine, delete(_ROLLUPS).where(*within))
    return counts


async def _delete_generations(engine: AsyncEngine, cutoff: datetime, counts: Counter[str]) -> int:
    """Delete the oldest generations and their costs in one transaction; return the number of generations."""
    oldest = select(_GENERATIONS.c.id).where(_GENERATIONS.c.created_at < cutoff)
    async with engine.connect() as connection:
        # A deferred transaction that began with a read fails when it is upgraded while another one writes.
        await connection.execution_options(sqlite_begin="IMMEDIATE")
        async with connection.begin():
            query = oldest.order_by(_GENERATIONS.c.created_at).limit(_CHUNK)
            ids = list((await connection.execute(query)).scalars())
            if ids:
                costs = await connection.execute(delete(_COSTS).where(_COSTS.c.generation_id.in_(ids)))
                found = await connection.execute(delete(_GENERATIONS).where(_GENERATIONS.c.id.in_(ids)))
                counts.update(costs=costs.rowcount, generations=found.rowcount)
    # Leaves room for the writers that wait for the lock of the database.
    await asyncio.sleep(_PAUSE_S)
    return len(ids)


async def _delete_stats(engine: AsyncEngine, cutoff: datetime, counts: Counter[str]) -> bool:
    """Delete the oldest day of `cache_stats`; return whether there was one before the cutoff."""
    async with engine.connect() as connection:
        oldest = (await connection.execute(select(func.min(_STATS.c.minute)))).scalar_one()
    if oldest is None or oldest >= cutoff:
        return False
    end = min(cutoff, oldest + timedelta(days=1))
    counts["cache_stats"] += await _execute(engine, delete(_STATS).where(_STATS.c.minute < end))
    await asyncio.sleep(_PAUSE_S)
    return True


async def _execute(engine: AsyncEngine, statement: Any) -> int:
    async with engine.connect() as connection:
        await connection.execution_options(sqlite_begin="IMMEDIATE")
        async with connection.begin():
            return int((await connection.execute(statement)).rowcount)


@asynccontextmanager
async def _try_lock(engine: AsyncEngine) -> AsyncIterator[bool]:
    """Try to take the lock of all workers and yield whether it was acquired."""
    if engine.dialect.name == "postgresql":
        async with engine.connect() as connection:
            # A lock of the transaction, which the server releases when the process dies.
            query = text("SELECT pg_try_advisory_xact_lock(:id)")
            yield bool((await connection.execute(query, {"id": _LOCK_ID})).scalar_one())
        return
    with try_lock(Path(f"{engine.url.database}-retention.lock")) as is_acquired:
        yield is_acquired
