"""A long backlog is brought into PostgreSQL by a process of its own: each record once, whatever happens to either."""

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
from forge_otel.outbox.outbox import Outbox, SinkStats
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Record

ABOVE = 1_000
MANY = 6_000
SLOW_S = 60.0


def left_behind(directory: Path, bodies: Sequence[bytes], *, count: int = 1) -> None:
    """The journals of processes that died with these records."""
    share = -(-len(bodies) // count)
    for place in range(0, len(bodies), share):
        segment = DiskSegment.create(directory)
        segment.index.extend(segment.append([(time.time(), body) for body in bodies[place : place + share]]))
        segment.close()


def outbox(directory: Path | None, url: str, *, shutdown_timeout_s: float = 5.0) -> Outbox:
    """An outbox that drains early."""
    sink = SqlSink(url, bulk_load_above=ABOVE)
    return Outbox([sink], directory=directory, max_bytes=2**30, shutdown_timeout_s=shutdown_timeout_s)


def database_of(box: Outbox) -> SinkStats:
    """Its figures."""
    return box.stats().sinks["database"]


def drainers(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The processes that were started."""
    return [int(number) for number in re.findall(r"bulk load process (\d+) started for sink database", caplog.text)]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is more than a zombie."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return False


async def delivered(box: Outbox, count: int) -> None:
    """Wait until so many records are."""
    await eventually(lambda: database_of(box).delivered >= count, timeout_s=SLOW_S)


async def emptied(box: Outbox) -> None:
    """Wait until nothing waits."""
    await eventually(lambda: not database_of(box).waiting, timeout_s=SLOW_S)


async def check_exact(url: str, records: Sequence[Record]) -> None:
    """Exactly these generations are stored, and each was counted once."""
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
async def half_drained(
    directory: Path, url: str, caplog: pytest.LogCaptureFixture, *, shutdown_timeout_s: float = 5.0
) -> AsyncIterator[tuple[Outbox, int]]:
    """An outbox whose backlog is being drained, and the process that does it."""
    with caplog.at_level(logging.INFO, "forge_otel"):
        async with outbox(directory, url, shutdown_timeout_s=shutdown_timeout_s) as box:
            await delivered(box, 1)
            await eventually(lambda: bool(drainers(caplog)), timeout_s=SLOW_S)
            yield box, drainers(caplog)[-1]


async def test_a_long_backlog_is_drained_by_another_process(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits in several files and what comes meanwhile is stored once, and the process ends with its work."""
    old, new = [record() for _ in range(MANY)], [record() for _ in range(50)]
    left_behind(tmp_path, [encode(item) for item in old], count=3)

    async with half_drained(tmp_path, postgres_database, caplog) as (box, pid):
        await asyncio.gather(*(box.offer(item) for item in new))
        await emptied(box)
        stats = database_of(box)
        await eventually(lambda: not is_running(pid))

    assert (stats.delivered, stats.dropped) == (MANY + 50, {})
    assert len(drainers(caplog)) == 1
    assert list(tmp_path.glob("*.journal")) == []
    await check_exact(postgres_database, old + new)


async def test_a_killed_drainer_costs_nothing(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its parent goes on by itself, or with another one."""
    records = [record() for _ in range(MANY * 2)]
    left_behind(tmp_path, [encode(item) for item in records])

    async with half_drained(tmp_path, postgres_database, caplog) as (box, pid):
        os.kill(pid, signal.SIGKILL)
        await emptied(box)
        stats = database_of(box)

    assert (stats.delivered, stats.dropped, stats.is_up) == (MANY * 2, {}, True)
    assert "of sink database ended early: it was killed" in caplog.text
    await check_exact(postgres_database, records)


async def test_a_killed_parent_takes_the_drainer_with_it(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The successor adopts what was left and stores it once."""
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
    drainer = int(await asyncio.wait_for(parent.stdout.readline(), SLOW_S))
    parent.kill()
    await parent.wait()

    await eventually(lambda: not is_running(drainer), timeout_s=SLOW_S)
    async with outbox(tmp_path, postgres_database) as box:
        await emptied(box)
        stats = database_of(box)

    assert stats.dropped == {}
    await check_exact(postgres_database, records)


async def test_what_the_database_refuses_is_left_to_the_parent(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A record without a row, one that PostgreSQL does not take and one that is damaged stop nothing but themselves."""
    records = [record() for _ in range(MANY)]
    bodies = [encode(item) for item in records]
    bodies[2_000] = encode(replace(records[2_000], created_at=datetime(2026, 3, 1)))  # noqa: DTZ001 - the fault
    bodies[3_000] = encode(replace(records[3_000], outcome="x" * 33))
    bodies[4_000] = bodies[4_000][:-1]
    left_behind(tmp_path, bodies)

    async with half_drained(tmp_path, postgres_database, caplog) as (box, _):
        await emptied(box)
        stats = database_of(box)

    assert (stats.delivered, stats.dropped) == (MANY - 3, {"rejected": 2, "damaged": 1})
    assert len(drainers(caplog)) == 1
    assert [letter.body for letter in dead_letters(tmp_path)] == [bodies[2_000], bodies[3_000], bodies[4_000]]
    good = [item for place, item in enumerate(records) if place not in {2_000, 3_000, 4_000}]
    await check_exact(postgres_database, good)


async def test_a_database_that_goes_away_again_is_waited_for(
    tmp_path: Path, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Crashed in the middle of the backlog, and back later."""
    records = [record() for _ in range(MANY * 2)]
    left_behind(tmp_path, [encode(item) for item in records])

    async with half_drained(tmp_path, postgres_server.url, caplog) as (box, pid):
        await asyncio.to_thread(postgres_server.kill)
        await eventually(lambda: not database_of(box).is_up, timeout_s=SLOW_S)
        await eventually(lambda: not is_running(pid), timeout_s=SLOW_S)
        await asyncio.to_thread(postgres_server.start)
        await emptied(box)
        stats = database_of(box)

    assert (stats.delivered, stats.dropped, stats.last_error) == (MANY * 2, {}, "")
    await check_exact(postgres_server.url, records)


async def test_two_workers_drain_one_folder(
    tmp_path: Path, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each its own backlog of the same outage, into the same database."""
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
    assert len(set(drainers(caplog))) == 2
    await check_exact(url, records[0] + records[1])


async def test_closing_in_the_middle_ends_the_drainer(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it has stored is not stored again by the next start, and the rest is."""
    records = [record() for _ in range(MANY * 2)]
    left_behind(tmp_path, [encode(item) for item in records])

    async with half_drained(tmp_path, postgres_database, caplog, shutdown_timeout_s=0.1) as (_, pid):
        pass
    await eventually(lambda: not is_running(pid))
    async with outbox(tmp_path, postgres_database) as box:
        await emptied(box)
        stats = database_of(box)

    assert stats.dropped == {}
    await check_exact(postgres_database, records)


async def test_without_a_journal_nothing_is_drained(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is only in memory only this process can deliver."""
    records = [record() for _ in range(ABOVE * 2)]
    with caplog.at_level(logging.INFO, "forge_otel"):
        async with outbox(None, postgres_server.url) as box:
            await eventually(lambda: database_of(box).is_up)
            await asyncio.to_thread(postgres_server.stop)
            await asyncio.gather(*(box.offer(item) for item in records))
            await asyncio.to_thread(postgres_server.start)
            await emptied(box)

    assert drainers(caplog) == []
    await check_exact(postgres_server.url, records)


async def test_without_another_process_the_parent_does_it(
    tmp_path: Path, postgres_database: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none can be started, the backlog is delivered as a short one is."""
    records = [record() for _ in range(ABOVE * 3)]
    left_behind(tmp_path, [encode(item) for item in records])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python-that-is-not-there"))

    async with outbox(tmp_path, postgres_database) as box:
        await emptied(box)

    assert "of sink database ended early: FileNotFoundError" in caplog.text
    await check_exact(postgres_database, records)


async def serve(directory: Path, url: str) -> None:
    """Drain until killed; the process that does it is named on the standard output once something is stored."""
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
