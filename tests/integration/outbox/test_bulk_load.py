"""Bulk load of a long backlog into PostgreSQL: each record is stored once, even if a process or the server dies."""

import asyncio
import logging
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.servers import PostgresServer
from tests.unit.sinks.builders import eventually, record

from forge_otel._journal.segments import DiskSegment
from forge_otel.database.engine import create_engine
from forge_otel.outbox.codec import encode
from forge_otel.outbox.inspect import dead_letters
from forge_otel.outbox.outbox import Outbox, OutboxOptions, SinkStats
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Record

ABOVE = 1_000
MANY = 6_000
SLOW_S = 60.0


def left_behind(directory: Path, bodies: Sequence[bytes], *, count: int = 1) -> None:
    """Write the journals of processes that died with these records."""
    share = -(-len(bodies) // count)
    for start in range(0, len(bodies), share):
        segment = DiskSegment.create(directory)
        segment.index.extend(segment.append([(time.time(), body) for body in bodies[start : start + share]]))
        segment.close()


def outbox(directory: Path | None, url: str, *, shutdown_timeout_s: float = 5.0) -> Outbox:
    """Return an outbox whose bulk load starts early."""
    sink = SqlSink(url, bulk_load_above=ABOVE)
    return Outbox([sink], OutboxOptions(directory=directory, max_bytes=2**30, shutdown_timeout_s=shutdown_timeout_s))


def database_of(box: Outbox) -> SinkStats:
    """Return the figures of the database sink."""
    return box.stats().sinks["database"]


def loaders(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the ids of the bulk load processes from the log."""
    return [int(number) for number in re.findall(r"bulk load process (\d+) started for sink database", caplog.text)]


def is_running(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return False


async def delivered(box: Outbox, count: int) -> None:
    """Wait until `count` records are delivered."""
    await eventually(lambda: database_of(box).delivered >= count, timeout_s=SLOW_S)


async def emptied(box: Outbox) -> None:
    """Wait until no record is queued."""
    await eventually(lambda: not database_of(box).waiting, timeout_s=SLOW_S)


async def check_exact(url: str, records: Sequence[Record]) -> None:
    """Check that exactly these generations are stored, and that each was counted once."""
    engine = create_engine(url)
    async with engine.connect() as connection:
        stored = [name for (name,) in await connection.execute(text("SELECT id FROM generations"))]
        sums = "SELECT (SELECT sum(requests) FROM cache_stats WHERE layer = 'L1'), (SELECT count(*) FROM costs), "
        rollups = "(SELECT sum(count) FROM rollups WHERE facet = 'answers' AND hours = 24 AND component_type = '')"
        figures = (await connection.execute(text(sums + rollups))).one()
    await engine.dispose()
    assert sorted(stored) == sorted(item.id for item in records)
    assert tuple(figures) == (len(records), sum(len(item.costs) for item in records), len(records))


@asynccontextmanager
async def half_loaded(
    directory: Path, url: str, caplog: pytest.LogCaptureFixture, *, shutdown_timeout_s: float = 5.0
) -> AsyncIterator[tuple[Outbox, int]]:
    """Yield an outbox during its bulk load, and the id of the process."""
    with caplog.at_level(logging.INFO, "forge_otel"):
        async with outbox(directory, url, shutdown_timeout_s=shutdown_timeout_s) as box:
            await delivered(box, 1)
            await eventually(lambda: bool(loaders(caplog)), timeout_s=SLOW_S)
            yield box, loaders(caplog)[-1]


async def test_a_long_backlog_is_loaded_by_another_process(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The records of several files and new ones are stored once, and the process ends after the last one."""
    old, new = [record() for _ in range(MANY)], [record() for _ in range(50)]
    left_behind(tmp_path, [encode(item) for item in old], count=3)

    async with half_loaded(tmp_path, postgres_database, caplog) as (box, pid):
        await asyncio.gather(*(box.offer(item) for item in new))
        await emptied(box)
        stats = database_of(box)
        await eventually(lambda: not is_running(pid))

    assert (stats.delivered, stats.dropped) == (MANY + 50, {})
    assert len(loaders(caplog)) == 1
    assert list(tmp_path.glob("*.journal")) == []
    await check_exact(postgres_database, old + new)


async def test_a_killed_loader_costs_nothing(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The service delivers the rest itself, or starts another process."""
    records = [record() for _ in range(MANY * 2)]
    left_behind(tmp_path, [encode(item) for item in records])

    async with half_loaded(tmp_path, postgres_database, caplog) as (box, pid):
        os.kill(pid, signal.SIGKILL)
        await emptied(box)
        stats = database_of(box)

    assert (stats.delivered, stats.dropped, stats.is_up) == (MANY * 2, {}, True)
    assert "of sink database ended early: it was killed" in caplog.text
    await check_exact(postgres_database, records)


async def test_the_loader_ends_with_its_parent(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next start adopts the remaining records and stores each once."""
    records = [record() for _ in range(MANY * 2)]
    left_behind(tmp_path, [encode(item) for item in records])
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(tmp_path),
        postgres_database,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    loader = int(await asyncio.wait_for(parent.stdout.readline(), SLOW_S))
    parent.kill()
    await parent.wait()

    await eventually(lambda: not is_running(loader), timeout_s=SLOW_S)
    async with outbox(tmp_path, postgres_database) as box:
        await emptied(box)
        stats = database_of(box)

    assert stats.dropped == {}
    await check_exact(postgres_database, records)


async def test_rejected_records_are_left_to_the_parent(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unmappable, a rejected and a damaged record become dead letters; the rest is stored."""
    records = [record() for _ in range(MANY)]
    bodies = [encode(item) for item in records]
    bodies[2_000] = encode(replace(records[2_000], created_at=datetime(2026, 3, 1)))  # noqa: DTZ001 - the fault
    bodies[3_000] = encode(replace(records[3_000], outcome="x" * 33))
    bodies[4_000] = bodies[4_000][:-1]
    left_behind(tmp_path, bodies)

    async with half_loaded(tmp_path, postgres_database, caplog) as (box, _):
        await emptied(box)
        stats = database_of(box)

    assert (stats.delivered, stats.dropped) == (MANY - 3, {"rejected": 2, "damaged": 1})
    assert len(loaders(caplog)) == 1
    assert [letter.body for letter in dead_letters(tmp_path)] == [bodies[2_000], bodies[3_000], bodies[4_000]]
    good = [item for place, item in enumerate(records) if place not in {2_000, 3_000, 4_000}]
    await check_exact(postgres_database, good)


async def test_a_database_that_crashes_again_is_awaited(
    tmp_path: Path, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a crash of the server in the middle of a bulk load the rest is stored when it is back."""
    records = [record() for _ in range(MANY * 2)]
    left_behind(tmp_path, [encode(item) for item in records])

    async with half_loaded(tmp_path, postgres_server.url, caplog) as (box, pid):
        await asyncio.to_thread(postgres_server.kill)
        await eventually(lambda: not database_of(box).is_up, timeout_s=SLOW_S)
        await eventually(lambda: not is_running(pid), timeout_s=SLOW_S)
        await asyncio.to_thread(postgres_server.start)
        await emptied(box)
        stats = database_of(box)

    assert (stats.delivered, stats.dropped, stats.last_error) == (MANY * 2, {}, "")
    await check_exact(postgres_server.url, records)


async def test_two_workers_load_from_one_folder(
    tmp_path: Path, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each worker loads its own journal into the same database."""
    records = [[record() for _ in range(ABOVE * 2)] for _ in range(2)]
    url = postgres_server.url
    with caplog.at_level(logging.INFO, "forge_otel"):
        async with outbox(tmp_path, url) as first, outbox(tmp_path, url) as second:
            await eventually(lambda: database_of(first).is_up and database_of(second).is_up)
            await asyncio.to_thread(postgres_server.stop)
            for box, own in zip((first, second), records, strict=True):
                await asyncio.gather(*(box.offer(item) for item in own))
            await asyncio.to_thread(postgres_server.start)
            await emptied(first)
            await emptied(second)
            found = [database_of(box) for box in (first, second)]

    assert [(stats.delivered, stats.dropped) for stats in found] == [(ABOVE * 2, {})] * 2
    assert len(set(loaders(caplog))) == 2
    await check_exact(url, records[0] + records[1])


async def test_closing_in_the_middle_ends_the_loader(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next start stores the rest, and no record twice."""
    records = [record() for _ in range(MANY * 2)]
    left_behind(tmp_path, [encode(item) for item in records])

    async with half_loaded(tmp_path, postgres_database, caplog, shutdown_timeout_s=0.1) as (_, pid):
        pass
    await eventually(lambda: not is_running(pid))
    async with outbox(tmp_path, postgres_database) as box:
        await emptied(box)
        stats = database_of(box)

    assert stats.dropped == {}
    await check_exact(postgres_database, records)


async def test_records_in_memory_are_not_bulk_loaded(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process cannot read the memory of this one."""
    records = [record() for _ in range(ABOVE * 2)]
    with caplog.at_level(logging.INFO, "forge_otel"):
        async with outbox(None, postgres_server.url) as box:
            await eventually(lambda: database_of(box).is_up)
            await asyncio.to_thread(postgres_server.stop)
            await asyncio.gather(*(box.offer(item) for item in records))
            await asyncio.to_thread(postgres_server.start)
            await emptied(box)

    assert loaders(caplog) == []
    await check_exact(postgres_server.url, records)


async def test_without_another_process_the_service_delivers(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no process can be started, the backlog is delivered like a short one."""
    records = [record() for _ in range(ABOVE * 3)]
    left_behind(tmp_path, [encode(item) for item in records])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python-that-is-not-there"))

    async with outbox(tmp_path, postgres_database) as box:
        await emptied(box)

    assert "of sink database ended early: FileNotFoundError" in caplog.text
    await check_exact(postgres_database, records)


async def serve(directory: Path, url: str) -> None:
    """Deliver until killed; print the id of the bulk load process after the first stored batch."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda line: found.extend(re.findall(r"process (\d+) started", line.getMessage()))  # type: ignore[method-assign]
    logging.getLogger("forge_otel").addHandler(handler)
    logging.getLogger("forge_otel").setLevel(logging.INFO)
    async with outbox(directory, url) as box:
        await delivered(box, 1)
        await eventually(lambda: bool(found), timeout_s=SLOW_S)
        print(found[0], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
