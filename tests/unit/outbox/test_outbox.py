"""The outbox on a real disk: no record is lost, none is delivered twice, and no error reaches the caller."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from tests.unit.outbox.builders import DownSink, is_balanced, journals, left_behind, outbox
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel.outbox.codec import decode
from forge_otel.outbox.outbox import SinkStats
from forge_otel.types import Record


@pytest.mark.parametrize("durable", [True, False], ids=["disk", "memory"])
async def test_every_sink_gets_every_record_in_order(tmp_path: Path, durable: bool) -> None:
    """Records reach each sink once, in the order of the offers, with their contents."""
    first, second = ListSink(), ListSink()
    records = [record() for _ in range(1200)]

    async with outbox(tmp_path if durable else None, first, second) as box:
        await asyncio.gather(*(box.offer(item) for item in records))
        await eventually(lambda: not any(stats.waiting for stats in box.stats().sinks.values()))
        stats = box.stats()

    assert first.records == second.records == records
    assert list(stats.sinks) == ["list", "list-2"]
    assert stats.sinks["list"].delivered == stats.sinks["list"].produced == 1200
    assert stats.is_durable is durable
    assert stats.journal_bytes == 0
    assert journals(tmp_path) == []


async def test_an_offered_record_is_on_disk(tmp_path: Path) -> None:
    """When `offer` returns, another process can read the record from the file."""
    item = record()

    async with outbox(tmp_path, DownSink(), shutdown_timeout_s=0.1) as box:
        await box.offer(item)
        with sqlite3.connect(journals(tmp_path)[0]) as connection:
            bodies = [body for (body,) in connection.execute("SELECT body FROM record")]
        connection.close()
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    assert [decode(body) for body in bodies] == [item]
    assert modes == {0o600}


async def test_records_that_wait_are_delivered_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Records that a service could not deliver before its end are delivered after the next start."""
    records = [record() for _ in range(20)]
    await left_behind(tmp_path, records)
    assert "20 records for sink list stay in the journal" in caplog.text

    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        await eventually(lambda: len(sink.ids) == 20)
        assert box.stats().sinks["list"].produced == 20

    assert sink.records == records
    assert journals(tmp_path) == []


async def test_memory_does_not_outlive_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Without a directory, records that wait at the end are dropped, counted and logged."""
    box = outbox(None, DownSink(), shutdown_timeout_s=0.2)
    async with box:
        await box.offer(record())
    stats = box.stats().sinks["list"]

    assert (stats.waiting, stats.dropped) == (0, {"shutdown": 1})
    assert "1 records for sink list were only in memory and are lost" in caplog.text


async def test_a_cancelled_caller_loses_nothing(tmp_path: Path) -> None:
    """A record whose caller is cancelled while it waits for the disk is delivered."""
    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        tasks = [asyncio.create_task(box.offer(record())) for _ in range(200)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: len(sink.ids) == 200)

    assert all(task.cancelled() for task in tasks)


async def test_closing_delivers_the_waiting_records(tmp_path: Path) -> None:
    """Records that were offered just before the end still reach the sink, without a wait for the deadline."""
    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        for _ in range(800):
            box.offer_nowait(record())
        started_s = time.monotonic()

    assert len(sink.ids) == 800
    assert time.monotonic() - started_s < 4


async def test_a_stuck_sink_cannot_delay_closing(tmp_path: Path) -> None:
    """Closing keeps its deadline, even if a sink ignores its cancellation."""
    released = asyncio.Event()

    class Stuck(ListSink):
        async def deliver(self, records: Sequence[Record], /) -> None:
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()

    box = outbox(tmp_path, Stuck(), shutdown_timeout_s=0.6)
    async with box:
        await box.offer(record())
        started_s = time.monotonic()
    took_s = time.monotonic() - started_s
    released.set()

    assert took_s < 1.0
    assert box.stats().sinks["list"].waiting == 1
    assert len(journals(tmp_path)) == 1


async def test_drain_returns_whether_all_records_were_delivered(tmp_path: Path) -> None:
    """`drain` returns True when no record waits, and False after its timeout."""
    sink, down = ListSink(), DownSink("down")
    async with outbox(tmp_path, sink, down, shutdown_timeout_s=0.2) as box:
        assert await box.drain(timeout_s=5)
        for _ in range(300):
            box.offer_nowait(record())
        assert not await box.drain(timeout_s=0.05)
        down.fault = None
        assert await box.drain(timeout_s=10)
        assert len(sink.ids) == len(down.ids) == 300


async def test_offers_after_the_end_are_counted(tmp_path: Path) -> None:
    """A closed outbox drops and counts the record, and raises nothing."""
    box = outbox(tmp_path, ListSink())
    async with box:
        pass
    await box.offer(record())
    box.offer_nowait(record())

    assert box.stats().sinks["list"].dropped == {"closed": 2}


async def test_the_figures_balance_at_every_moment(tmp_path: Path) -> None:
    """In every snapshot each record is in exactly one counter, and counters only grow."""

    class Flaky(ListSink):
        async def deliver(self, records: Sequence[Record], /) -> None:
            self.calls += 1
            if self.calls % 3 == 0:
                raise ConnectionError("flaky")
            await super().deliver(records)

    await left_behind(tmp_path, [record() for _ in range(50)], sink=DownSink("flaky"))
    sink = Flaky()
    sink.name = "flaky"
    seen: list[SinkStats] = []
    async with outbox(tmp_path, sink, max_bytes=200_000) as box:
        for _ in range(400):
            box.offer_nowait(record())
            seen.append(box.stats().sinks["flaky"])
            await asyncio.sleep(0)
        while seen[-1].waiting:
            seen.append(box.stats().sinks["flaky"])
            await asyncio.sleep(0.001)

    assert all(is_balanced(stats) for stats in seen)
    assert all(before.produced <= after.produced for before, after in pairwise(seen))
    assert all(before.delivered <= after.delivered for before, after in pairwise(seen))
    assert seen[-1].produced == 450
    assert len(sink.ids) == len(set(sink.ids)) == seen[-1].delivered
    assert set(seen[-1].dropped) <= {"full"}


async def test_an_outbox_without_sinks_stores_nothing(tmp_path: Path) -> None:
    """Without sinks no record is kept, and none is an error."""
    async with outbox(tmp_path) as box:
        await box.offer(record())

        assert box.stats().sinks == {}
        assert box.stats().journal_bytes == 0
