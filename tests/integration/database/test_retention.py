"""Retention on SQLite and PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.unit.sinks.builders import eventually, record

from forge_otel._internal import periodic as _periodic
from forge_otel.database import retention
from forge_otel.database.models import Base
from forge_otel.database.retention import expire
from forge_otel.sinks.sql import SqlSink

NOW = datetime(2026, 6, 1, 15, 30, tzinfo=UTC)
CUTOFF = NOW - timedelta(days=90)
MIDNIGHT = CUTOFF.replace(hour=0, minute=0)


@pytest.fixture(params=["sqlite", "postgres"])
async def sink(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlSink]:
    """Forty expired generations of three days, one of the day of the cutoff, and one of today."""
    url = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_database"))
    async with SqlSink(url) as opened:
        old = [record(created_at=MIDNIGHT - timedelta(hours=1 + number)) for number in range(40)]
        await opened.deliver([*old, record(created_at=MIDNIGHT), record(created_at=NOW)])
        yield opened


async def counts(sink: SqlSink) -> dict[str, int]:
    """Number of rows of each table; of `rollups` the counted generations."""
    found = {}
    async with sink.engine.connect() as connection:
        for name, table in Base.metadata.tables.items():
            query = select(func.count()).select_from(table)
            if name == "rollups":
                query = select(func.sum(table.c.count)).where(
                    table.c.facet == "answers", table.c.hours == 24, table.c.component_type == ""
                )
            found[name] = int((await connection.execute(query)).scalar_one() or 0)
    return found


async def test_whole_days_are_deleted_from_every_table(sink: SqlSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day of the cutoff is kept, and a second run deletes nothing."""
    monkeypatch.setattr(retention, "_CHUNK", 7)
    deleted = await expire(sink.engine, CUTOFF)

    assert (deleted["generations"], deleted["costs"], deleted["cache_stats"]) == (40, 80, 80)
    assert await counts(sink) == {"generations": 2, "costs": 4, "cache_stats": 4, "rollups": 2}
    assert not (await expire(sink.engine, CUTOFF)).total()


async def test_only_one_worker_deletes(sink: SqlSink) -> None:
    """While the lock is held nothing is deleted."""
    async with retention._try_lock(sink.engine) as is_acquired:
        assert is_acquired
        assert not (await expire(sink.engine, CUTOFF)).total()
    assert (await expire(sink.engine, CUTOFF))["generations"] == 40


async def test_concurrent_workers_delete_each_row_once(sink: SqlSink) -> None:
    """The counts of all workers add up to the number of rows."""
    async with SqlSink(sink.url) as other:
        found = await asyncio.gather(*(expire(one.engine, CUTOFF) for one in (sink, other, sink)))
    assert sum(one["generations"] for one in found) == 40


async def test_the_deletion_repeats_until_it_is_stopped(sink: SqlSink) -> None:
    """It starts soon, adds to the counter, and leaves no task behind."""
    deleted: Counter[str] = Counter()
    job = retention.retention(sink.engine, days=0.001, deleted=deleted, first_after_s=0.001, every_s=0.01)
    job.start()
    # All test records are older than the clock of this machine, except those of its own day.
    await eventually(lambda: deleted["generations"] >= 40)
    await sink.deliver([record(created_at=MIDNIGHT - timedelta(days=3))])
    before = deleted["generations"]
    await eventually(lambda: deleted["generations"] > before)
    await job.stop()


async def test_the_sink_passes_its_retention_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows older than the setting are deleted, and the sink counts them."""
    monkeypatch.setattr(_periodic.random, "uniform", lambda *_: 0)
    async with SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db") as before:
        await before.deliver([record(created_at=datetime.now(UTC) - timedelta(days=days)) for days in (89, 92, 100)])
    async with SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db", retention_days=90) as opened:
        await eventually(lambda: opened.expired.get("rollups"))
        assert opened.expired["generations"] == 2
        assert (await counts(opened))["generations"] == 1
