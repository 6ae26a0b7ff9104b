"""What is too old is deleted: in pieces, counted, by one worker, and with everything that belongs to it."""

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
    """Forty generations that are too old, of three days; one of the cutoff's own day, one of today."""
    url = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_database"))
    async with SqlSink(url) as opened:
        old = [record(created_at=MIDNIGHT - timedelta(hours=1 + number)) for number in range(40)]
        await opened.deliver([*old, record(created_at=MIDNIGHT), record(created_at=NOW)])
        yield opened


async def counts(sink: SqlSink) -> dict[str, int]:
    """Rows of each table; of the sums those that speak of generations."""
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


async def test_whole_days_are_deleted_with_all_that_belongs_to_them(
    sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generations, costs, cache figures and sums; the day of the cutoff stays whole; a second time finds nothing."""
    monkeypatch.setattr(retention, "_CHUNK", 7)
    deleted = await expire(sink.engine, CUTOFF)

    assert (deleted["generations"], deleted["costs"], deleted["cache_stats"]) == (40, 80, 80)
    assert await counts(sink) == {"generations": 2, "costs": 4, "cache_stats": 4, "rollups": 2}
    assert not (await expire(sink.engine, CUTOFF)).total()


async def test_only_one_worker_deletes(sink: SqlSink) -> None:
    """Whoever comes second finds the work taken, and does nothing; afterwards it is free again."""
    async with retention._try_lock(sink.engine) as is_acquired:
        assert is_acquired
        assert not (await expire(sink.engine, CUTOFF)).total()
    assert (await expire(sink.engine, CUTOFF))["generations"] == 40


async def test_several_at_once_delete_each_row_once(sink: SqlSink) -> None:
    """The counts of all workers add up to what was there."""
    async with SqlSink(sink.url) as other:
        found = await asyncio.gather(*(expire(one.engine, CUTOFF) for one in (sink, other, sink)))
    assert sum(one["generations"] for one in found) == 40


async def test_it_goes_on_in_the_background_and_ends_when_told(sink: SqlSink) -> None:
    """It deletes soon after the start, is counted on the way, and leaves no task behind."""
    deleted: Counter[str] = Counter()
    job = retention.retention(sink.engine, days=0.001, deleted=deleted, first_after_s=0.001, every_s=0.01)
    job.start()
    # The clock of this machine is beyond all of them, but for those of its own day.
    await eventually(lambda: deleted["generations"] >= 40)
    await sink.deliver([record(created_at=MIDNIGHT - timedelta(days=3))])
    before = deleted["generations"]
    await eventually(lambda: deleted["generations"] > before)
    await job.stop()


async def test_the_sink_keeps_ninety_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the setting says reaches the job, and the sink tells what it deleted."""
    monkeypatch.setattr(_periodic.random, "uniform", lambda *_: 0)
    async with SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db") as before:
        await before.deliver([record(created_at=datetime.now(UTC) - timedelta(days=days)) for days in (89, 92, 100)])
    async with SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db", retention_days=90) as opened:
        await eventually(lambda: opened.expired.get("rollups"))
        assert opened.expired["generations"] == 2
        assert (await counts(opened))["generations"] == 1
