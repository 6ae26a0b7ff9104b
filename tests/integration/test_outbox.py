"""The outbox on a real disk: nothing lost, nothing twice, nothing that reaches the caller."""

import asyncio
import logging
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel._journal.segments import DiskSegment
from forge_otel.errors import Rejected
from forge_otel.outbox.codec import decode
from forge_otel.outbox.outbox import Outbox, SinkStats
from forge_otel.types import Record, Sink

MAX_BYTES = 64 * 2**20


def outbox(directory: Path | None, *sinks: Sink, max_bytes: int = MAX_BYTES, shutdown_timeout_s: float = 5.0) -> Outbox:
    """An outbox with the usual limits."""
    return Outbox(sinks, directory=directory, max_bytes=max_bytes, shutdown_timeout_s=shutdown_timeout_s)


def balanced(stats: SinkStats) -> bool:
    """Whether every record is in exactly one of the figures."""
    return stats.produced == stats.delivered + stats.waiting + sum(stats.dropped.values())


def journals(directory: Path) -> list[Path]:
    """The journal files in a folder."""
    return sorted(directory.glob("*.journal"))


class DownSink(ListSink):
    """A sink that is down until its fault is taken away."""

    def __init__(self, name: str = "list") -> None:
        super().__init__()
        self.name = name
        self.fault = ConnectionError("refused")


async def left_behind(directory: Path, records: Sequence[Record], *, sink: ListSink | None = None) -> Path:
    """A folder with the journal of a service that ended while its sink was down."""
    async with outbox(directory, sink or DownSink()) as box:
        for item in records:
            await box.offer(item)
    return directory


@pytest.mark.parametrize("durable", [True, False], ids=["disk", "memory"])
async def test_every_sink_gets_every_record_in_order(tmp_path: Path, durable: bool) -> None:
    """Records reach each sink once and in the order in which they were offered, contents and all."""
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


async def test_a_sink_that_comes_back_gets_all_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While one sink is down the others are served; when it comes back it gets everything once, in order."""
    down, up = DownSink("down"), ListSink()
    records = [record() for _ in range(700)]

    async with outbox(tmp_path, down, up) as box:
        for item in records:
            box.offer_nowait(item)
        await eventually(lambda: len(up.ids) == 700 and down.calls > 2)
        stats = box.stats().sinks["down"]
        assert (stats.waiting, stats.is_up, stats.last_error) == (700, False, "ConnectionError: refused")
        assert stats.oldest_age_s > 0
        down.fault = None
        await eventually(lambda: len(down.ids) == 700)
        assert box.stats().sinks["down"].is_up

    assert down.ids == up.ids == [item.id for item in records]
    assert caplog.text.count("sink down unavailable") == 1
    assert caplog.text.count("sink down available again") == 1


async def test_records_that_wait_are_delivered_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a service could not deliver before it ended, the next one delivers."""
    records = [record() for _ in range(20)]
    await left_behind(tmp_path, records)
    assert "20 records for sink list stay in the journal" in caplog.text

    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        await eventually(lambda: len(sink.ids) == 20)
        assert box.stats().sinks["list"].produced == 20

    assert sink.records == records
    assert journals(tmp_path) == []


async def test_adopted_records_come_before_new_ones(tmp_path: Path) -> None:
    """A successor keeps the order: first what it found, then what it was offered."""
    old, new = [record() for _ in range(600)], [record() for _ in range(5)]
    await left_behind(tmp_path, old)

    sink = DownSink()
    async with outbox(tmp_path, sink) as box:
        for item in new:
            await box.offer(item)
        sink.fault = None
        await eventually(lambda: len(sink.ids) == 605)

    assert sink.records == old + new


async def test_a_sink_does_not_get_again_what_it_had(tmp_path: Path) -> None:
    """Each sink has its own cursor, and it is in the journal."""
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


async def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    """A living neighbour's journal is left alone, and adopted once the neighbour is gone."""
    down, sink = DownSink(), ListSink()
    item = record()

    async with outbox(tmp_path, down, shutdown_timeout_s=0.2) as one:
        await one.offer(item)
        async with outbox(tmp_path, sink) as two:
            await two.offer(record())
            await eventually(lambda: len(sink.ids) == 1)
            assert two.stats().sinks["list"].produced == 1
        assert one.stats().sinks["list"].waiting == 1

    async with outbox(tmp_path, sink):
        await eventually(lambda: sink.ids[1:] == [item.id])


@pytest.mark.parametrize("neighbours", [0, 1, 40], ids=["alone", "one neighbour", "many"])
async def test_a_poison_record_is_set_apart(tmp_path: Path, neighbours: int) -> None:
    """A record that fails while others pass goes to the dead letters with its reason; all others arrive once."""

    class Picky(ListSink):
        async def deliver(self, records: Sequence[Record], /) -> None:
            if any(item.component_name == "poison" for item in records):
                raise RuntimeError("cannot digest this")
            await super().deliver(records)

    poison, good = record(component_name="poison"), [record(component_id=f"c{n}") for n in range(neighbours)]
    sink = Picky()
    async with outbox(tmp_path, sink, shutdown_timeout_s=0.5) as box:
        for item in [*good[: neighbours // 2], poison, *good[neighbours // 2 :]]:
            box.offer_nowait(item)
        done = 1 if neighbours else 0
        await eventually(lambda: box.stats().sinks["list"].dropped == ({"rejected": 1} if done else {}))
        await eventually(lambda: set(sink.ids) == {item.id for item in good})
        stats = box.stats().sinks["list"]

    assert balanced(stats)
    assert stats.waiting == 1 - done
    if neighbours > 1:
        assert len(sink.ids) == neighbours
    if done:
        with sqlite3.connect(tmp_path / "dead-letters.sqlite") as connection:
            [(name, reason, body)] = connection.execute("SELECT sink, reason, body FROM dead_letter").fetchall()
        connection.close()
        assert (name, reason, decode(body)) == ("list", "RuntimeError: cannot digest this", poison)


async def test_a_sink_may_reject_a_record(tmp_path: Path) -> None:
    """`Rejected` is not retried, not even when the record is alone."""

    class Strict(ListSink):
        async def deliver(self, records: Sequence[Record], /) -> None:
            self.calls += 1
            raise Rejected("never")

    sink = Strict()
    async with outbox(tmp_path, sink) as box:
        await box.offer(record())
        await eventually(lambda: box.stats().sinks["list"].dropped == {"rejected": 1})

    assert sink.calls == 1


async def test_nothing_is_given_up_when_everything_fails(tmp_path: Path) -> None:
    """A sink that fails for every record is down: all wait, none is a dead letter."""
    sink = DownSink()
    async with outbox(tmp_path, sink, shutdown_timeout_s=0.5) as box:
        for _ in range(30):
            box.offer_nowait(record())
        await eventually(lambda: sink.calls > 10)
        stats = box.stats().sinks["list"]

    assert (stats.waiting, stats.dropped) == (30, {})
    assert not (tmp_path / "dead-letters.sqlite").exists()


@pytest.mark.parametrize("durable", [True, False], ids=["disk", "memory"])
async def test_above_the_size_cap_new_records_are_dropped(tmp_path: Path, durable: bool) -> None:
    """A full journal keeps what it has, counts what it cannot take, and raises nothing."""
    sink = DownSink()
    big = {"component.tsx": "x" * 10_000}

    async with outbox(tmp_path if durable else None, sink, max_bytes=50_000, shutdown_timeout_s=0.2) as box:
        for _ in range(10):
            await box.offer(record(artifacts=big))
        stats = box.stats()
        assert stats.journal_bytes <= 50_000
        assert stats.sinks["list"].waiting == 4
        assert stats.sinks["list"].dropped == {"full": 6}
        sink.fault = None
        await eventually(lambda: box.stats().sinks["list"].delivered == 4)
        await box.offer(record(artifacts=big))
        await eventually(lambda: box.stats().sinks["list"].delivered == 5)


async def test_memory_does_not_outlive_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Without a directory what waits at the end is lost, counted and reported."""
    box = outbox(None, DownSink(), shutdown_timeout_s=0.2)
    async with box:
        await box.offer(record())
    stats = box.stats().sinks["list"]

    assert (stats.waiting, stats.dropped) == (0, {"shutdown": 1})
    assert "1 records for sink list were only in memory and are lost" in caplog.text


async def test_an_unusable_directory_costs_durability_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records are delivered from memory while the disk fails, and from disk as soon as it works again."""
    directory, sink, offered = tmp_path / "outbox", ListSink(), [record() for _ in range(5)]
    directory.write_text("a file where the folder should be")
    caplog.set_level(logging.INFO, "forge_otel")

    async with outbox(directory, sink) as box:
        for item in offered:
            await box.offer(item)
        await eventually(lambda: sink.records == offered)
        assert not box.stats().is_durable
        directory.unlink()
        while not box.stats().is_durable:
            offered.append(record())
            await box.offer(offered[-1])
        await eventually(lambda: not box.stats().sinks["list"].waiting)

    assert sink.records == offered
    assert caplog.text.count("cannot be written") == 1
    assert caplog.text.count("writable again") == 1


@pytest.mark.parametrize("damage", ["text", "header", "pages", "empty"])
async def test_a_corrupt_journal_never_blocks_the_start(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A journal that cannot be read is set aside and reported; what is whole in it arrives, and the service works."""
    offered = [record(artifacts={"a": "x" * 5000}) for _ in range(50)]
    await left_behind(tmp_path, offered)
    [path] = journals(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "text":
        content = bytearray(b"not a database at all" * 100)
    elif damage == "header":
        content[:100] = bytes(100)
    elif damage == "pages":
        content[4096:] = b"\xff" * (len(content) - 4096)
    else:
        content = bytearray()
    path.write_bytes(content)

    sink, fresh = ListSink(), record()
    async with outbox(tmp_path, sink) as box:
        await box.offer(fresh)
        await eventually(lambda: fresh.id in sink.ids)
        assert balanced(box.stats().sinks["list"])

    assert sink.records == [*(offered if damage == "header" else []), fresh]
    assert journals(tmp_path) == []
    if damage != "empty":
        assert path.with_name(f"{path.name}.corrupt").read_bytes() == content
        assert "is damaged" in caplog.text


async def test_a_damaged_record_costs_only_itself(tmp_path: Path) -> None:
    """A record whose bytes were changed on disk is counted and set apart; its neighbours arrive."""
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


async def test_a_journal_that_is_damaged_while_in_use_is_replaced(tmp_path: Path) -> None:
    """Damage that shows up while running costs what was in the file, counted, and the service goes on."""
    sink = DownSink()
    async with outbox(tmp_path, sink) as box:
        # More than SQLite keeps in memory, so that it has to look at the file again.
        for _ in range(200):
            box.offer_nowait(record(artifacts={"a": "x" * 50_000}))
        await eventually(lambda: box.stats().journal_bytes > 10_000_000)
        [path] = journals(tmp_path)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        sink.fault = None
        await eventually(lambda: not box.stats().sinks["list"].waiting, timeout_s=20)
        lost = box.stats().sinks["list"]
        await box.offer(record(component_name="later"))
        await eventually(lambda: sink.records and sink.records[-1].component_name == "later")

    assert balanced(lost)
    assert lost.produced == 200
    assert lost.dropped == {"damaged": 200 - lost.delivered}
    assert len(list(tmp_path.glob("*.corrupt"))) == 1


async def test_a_cancelled_caller_loses_nothing(tmp_path: Path) -> None:
    """A record whose caller is cancelled while it waits for the disk is delivered all the same."""
    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        tasks = [asyncio.create_task(box.offer(record())) for _ in range(200)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: len(sink.ids) == 200)

    assert all(task.cancelled() for task in tasks)


async def test_closing_delivers_what_can_be_delivered(tmp_path: Path) -> None:
    """Records that were offered just before the end still reach the sink, and the end comes at once then."""
    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        for _ in range(800):
            box.offer_nowait(record())
        started_s = time.monotonic()

    assert len(sink.ids) == 800
    assert time.monotonic() - started_s < 4


async def test_a_stuck_sink_cannot_hold_up_the_end(tmp_path: Path) -> None:
    """Closing keeps its deadline, even if a sink ignores being cancelled."""
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


async def test_drain_waits_until_all_is_delivered(tmp_path: Path) -> None:
    """Draining ends when every sink has everything, and tells when that was not in time."""
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
    """A closed outbox takes nothing, says so, and does not raise."""
    box = outbox(tmp_path, ListSink())
    async with box:
        pass
    await box.offer(record())
    box.offer_nowait(record())

    assert box.stats().sinks["list"].dropped == {"closed": 2}


async def test_a_sink_that_cannot_open_is_tried_again(tmp_path: Path) -> None:
    """A sink is opened in the background until that works, and its records wait; it is closed at the end."""

    class Late(ListSink):
        opened = closed = 0

        async def __aenter__(self) -> Self:
            self.opened += 1
            if self.opened < 3:
                raise ConnectionError("not yet")
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            self.closed += 1

    late, other = Late(), ListSink()
    async with outbox(tmp_path, late, other) as box:
        await box.offer(record())
        await eventually(lambda: len(late.ids) == len(other.ids) == 1)

    assert (late.opened, late.closed) == (3, 1)


async def test_the_figures_balance_at_every_moment(tmp_path: Path) -> None:
    """Whenever the figures are read, every record is in exactly one of them, and counters only grow."""

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

    assert all(balanced(stats) for stats in seen)
    assert all(before.produced <= after.produced for before, after in pairwise(seen))
    assert all(before.delivered <= after.delivered for before, after in pairwise(seen))
    assert seen[-1].produced == 450
    assert len(sink.ids) == len(set(sink.ids)) == seen[-1].delivered
    assert set(seen[-1].dropped) <= {"full"}


async def test_large_artifacts_do_not_stop_the_event_loop(tmp_path: Path) -> None:
    """While 2 MB artifacts are written, read and delivered, the loop keeps turning."""
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


async def test_a_record_that_cannot_be_encoded_is_counted(tmp_path: Path) -> None:
    """A record with a value of a wrong type is dropped and named; the others go on."""
    sink = ListSink()
    async with outbox(tmp_path, sink) as box:
        await box.offer(record(tenant=object()))
        await box.offer(record())
        await eventually(lambda: len(sink.ids) == 1)

        assert box.stats().sinks["list"].dropped == {"rejected": 1}


async def test_an_outbox_without_sinks_takes_everything(tmp_path: Path) -> None:
    """With nowhere to deliver to, nothing is kept and nothing fails."""
    async with outbox(tmp_path) as box:
        await box.offer(record())

        assert box.stats().sinks == {}
        assert box.stats().journal_bytes == 0


async def test_a_journal_of_a_later_format_is_left_alone(tmp_path: Path) -> None:
    """A file that a later release wrote is neither read nor deleted nor renamed."""
    await left_behind(tmp_path, [record()])
    [path] = journals(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    async with outbox(tmp_path, ListSink()) as box:
        assert box.stats().sinks["list"].produced == 0

    assert journals(tmp_path) == [path]


async def test_a_journal_that_is_removed_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody cleans up: what waits is delivered all the same, and what comes next is on disk again."""
    sink = DownSink()
    offered = [record() for _ in range(3)]
    async with outbox(tmp_path / "box", sink) as box:
        await box.offer(offered[0])
        shutil.rmtree(tmp_path / "box")
        for item in offered[1:]:
            await box.offer(item)
        (journal,) = journals(tmp_path / "box")
        with closing(sqlite3.connect(journal)) as found:
            bodies = [body for (body,) in found.execute("SELECT body FROM record ORDER BY seq")]
        assert [decode(body).id for body in bodies] == [item.id for item in offered[1:]]
        assert box.stats().is_durable
        sink.fault = None
        await eventually(lambda: len(sink.records) == 3)
    assert sink.records == offered
    assert "was removed" in caplog.text


async def test_what_was_only_in_a_removed_journal_is_counted_at_the_end(tmp_path: Path) -> None:
    """Nobody will find it there."""
    async with outbox(tmp_path / "box", DownSink(), shutdown_timeout_s=0.2) as box:
        await box.offer(record())
        shutil.rmtree(tmp_path / "box")
    stats = box.stats().sinks["list"]
    assert (stats.dropped, stats.waiting) == ({"shutdown": 1}, 0)


@pytest.mark.parametrize(("is_power_safe", "level"), [(False, 1), (True, 2)])
def test_a_power_safe_journal_is_flushed_at_each_commit(tmp_path: Path, is_power_safe: bool, level: int) -> None:
    """SQLite's NORMAL survives the process, its FULL a power cut too; a successor's own file is as safe as it wants."""
    segment = DiskSegment.create(tmp_path, is_power_safe=is_power_safe)
    ((found,),) = segment._writer.execute("PRAGMA synchronous")
    segment.close()
    assert found == level
