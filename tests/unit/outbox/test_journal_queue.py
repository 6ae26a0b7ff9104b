"""The queue between callers, the journal and the delivery workers."""

import asyncio
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from tests.unit.outbox.builders import DownSink, journals, left_behind, outbox
from tests.unit.sinks.builders import ListSink, eventually, record


async def test_each_sink_has_its_own_cursor_in_the_journal(tmp_path: Path) -> None:
    """After a restart a sink gets only the records that it has not acknowledged."""
    had, missed = ListSink(), DownSink("down")
    async with outbox(tmp_path, had, missed, shutdown_timeout_s=0.5) as box:
        await box.offer(record())
        await eventually(lambda: had.ids)

    again, caught_up = ListSink(), DownSink("down")
    caught_up.fault = None
    async with outbox(tmp_path, again, caught_up) as box:
        await eventually(lambda: caught_up.ids)
        assert box.stats().sinks["list"].produced == 0

    assert again.ids == []


async def test_a_damaged_record_costs_only_itself(tmp_path: Path) -> None:
    """A record whose bytes were changed on disk is counted as damaged; its neighbours are delivered."""
    records = [record() for _ in range(9)]
    await left_behind(tmp_path, records)
    [path] = journals(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE record SET body = substr(body, 1, 50) WHERE seq = 5")
    connection.close()

    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        await eventually(lambda: not box.stats().sinks["list"].waiting)
        stats = box.stats().sinks["list"]

    assert sink.records == [*records[:4], *records[5:]]
    assert (stats.produced, stats.delivered, stats.dropped) == (9, 8, {"damaged": 1})
    assert (tmp_path / "dead-letters.sqlite").exists()


async def test_a_record_that_cannot_be_encoded_is_counted(tmp_path: Path) -> None:
    """A record with a value of a wrong type is dropped and logged; the next one is delivered."""
    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        await box.offer(record(tenant=object()))
        await box.offer(record())
        await eventually(lambda: len(sink.ids) == 1)

        assert box.stats().sinks["list"].dropped == {"rejected": 1}


async def test_large_artifacts_do_not_block_the_event_loop(tmp_path: Path) -> None:
    """While artifacts of 2 MB are written, read and delivered, the lag of the event loop stays small."""
    sink = ListSink()
    lags: list[float] = []

    async def probe() -> None:
        while True:
            started_s = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - started_s - 0.001)

    async with outbox(tmp_path, sink, max_bytes=2**30) as box:
        watching = asyncio.create_task(probe())
        for number in range(20):
            await box.offer(record(artifacts={"big.bin": bytes([number]) * 2_000_000, "big.tsx": "x" * 2_000_000}))
        await eventually(lambda: len(sink.ids) == 20)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    assert sorted(lags)[int(len(lags) * 0.95)] < 0.02
    assert max(lags) < 0.25
