"""A journal that hangs: callers get what `when_slow` says, and every figure tells written records from lost ones."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.unit.outbox.builders import MAX_BYTES, DownSink, is_balanced, journals, outbox
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel.errors import Rejected, ServiceUnavailable
from forge_otel.outbox.codec import decode
from forge_otel.outbox.outbox import Outbox, OutboxOptions, WhenSlow


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Hold the write lock of a SQLite file, so that each write to it hangs."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def journal_of(directory: Path, *sinks: ListSink, when_slow: WhenSlow, shutdown_timeout_s: float = 5.0) -> Outbox:
    """Return an outbox that does that while its journal hangs."""
    options = OutboxOptions(
        directory=directory, max_bytes=MAX_BYTES, shutdown_timeout_s=shutdown_timeout_s, when_slow=when_slow
    )
    return Outbox(sinks, options)


def stored(directory: Path) -> dict[str, tuple[str, ...]]:
    """Return id and `degraded` of each record in the journals of a folder."""
    found = {}
    for path in journals(directory):
        connection = sqlite3.connect(path)
        bodies = [body for (body,) in connection.execute("SELECT body FROM record")]
        connection.close()
        found |= {item.id: item.degraded for item in map(decode, bodies)}
    return found


async def test_answers_without_a_journal_are_labelled_counted_and_stored_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first caller waits for 1 s, later ones not at all; every record is in the journal once it responds."""
    first, *later = [record() for _ in range(6)]
    async with journal_of(tmp_path, DownSink(), when_slow="answer", shutdown_timeout_s=0.5) as box:
        assert await box.offer(record())
        with hanging(journals(tmp_path)[0]):
            started_s = time.monotonic()
            assert not await box.offer(first)
            assert 0.9 < time.monotonic() - started_s < 2
            started_s = time.monotonic()
            assert [await box.offer(item) for item in later] == [False] * 5
            assert time.monotonic() - started_s < 0.5
            stats = box.stats()
            assert (stats.is_durable, stats.unjournaled, box.degraded()) == (False, 6, ["list:outbox", "outbox:memory"])
            assert is_balanced(stats.sinks["list"])
        await eventually(lambda: box.stats().is_durable)
        assert await box.offer(last := record())
        assert box.degraded() == ["list:outbox"]
        assert box.stats().unjournaled == 6

    found = stored(tmp_path)
    assert [found[item.id] for item in (first, *later)] == [("outbox:memory",)] * 6
    assert found[last.id] == ()
    assert caplog.text.count("does not keep up") == 1
    assert "keeps up again, 6 answers were given without it" in caplog.text


async def test_waiting_callers_are_answered_when_their_record_is_stored(tmp_path: Path) -> None:
    """No caller is answered during the hang or without a journal; a power-safe outbox waits by default."""
    options = OutboxOptions(directory=tmp_path, max_bytes=MAX_BYTES, shutdown_timeout_s=0.5, is_power_safe=True)
    async with Outbox([DownSink()], options) as box:
        assert await box.offer(record())
        with hanging(journals(tmp_path)[0]):
            waiting = [asyncio.create_task(box.offer(record())) for _ in range(5)]
            cancelled = asyncio.create_task(box.offer(record()))
            await asyncio.sleep(1.5)
            assert not any(task.done() for task in waiting)
            assert not box.stats().is_durable
            cancelled.cancel()
            await asyncio.wait({cancelled}, timeout=1)
            assert cancelled.cancelled()
        assert await asyncio.gather(*waiting) == [True] * 5
        assert box.stats().unjournaled == 0

    assert len(stored(tmp_path)) == 7


async def test_refusing_callers_get_an_error_and_new_ones_at_once(tmp_path: Path) -> None:
    """A 503 with a time to wait; when the journal responds, generations are accepted without an intervention."""
    async with journal_of(tmp_path, DownSink(), when_slow="refuse", shutdown_timeout_s=0.5) as box:
        box.check_accepting()
        with hanging(journals(tmp_path)[0]):
            with pytest.raises(ServiceUnavailable) as caught:
                await box.offer(record())
            assert caught.value.retry_after_s
            with pytest.raises(ServiceUnavailable):
                box.check_accepting()
        await eventually(lambda: box.stats().is_durable)
        box.check_accepting()
        assert await box.offer(record())


async def test_refusal_of_a_missing_disk_ends_when_it_is_back(tmp_path: Path) -> None:
    """A refused request lets the outbox try the disk again, although nothing is offered."""
    folder = tmp_path / "outbox"
    folder.write_text("not a folder")
    async with journal_of(folder, ListSink(), when_slow="refuse", shutdown_timeout_s=0.5) as box:
        with pytest.raises(ServiceUnavailable):
            box.check_accepting()
        folder.unlink()

        async def accepted() -> None:
            while True:
                try:
                    return box.check_accepting()
                except ServiceUnavailable:
                    await asyncio.sleep(0.1)

        await asyncio.wait_for(accepted(), 5)
        assert await box.offer(record())


async def test_closing_tells_written_from_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records that a hanging journal never had are counted and logged as lost, stored ones as waiting."""
    box = journal_of(tmp_path, DownSink(), when_slow="answer", shutdown_timeout_s=0.5)
    async with box:
        for _ in range(3):
            await box.offer(record())
        path = journals(tmp_path)[0]
        holding = hanging(path)
        holding.__enter__()
        for _ in range(4):
            await box.offer(record())
    stats = box.stats()
    await box.offer(record())
    after = box.stats().sinks["list"]
    written = len(stored(tmp_path))
    holding.__exit__(None, None, None)

    assert written == 3
    assert (stats.sinks["list"].waiting, stats.sinks["list"].dropped) == (3, {"shutdown": 4})
    assert is_balanced(stats.sinks["list"])
    assert is_balanced(after)
    assert after.dropped == {"shutdown": 4, "closed": 1}
    assert "3 records for sink list stay in the journal" in caplog.text
    assert "4 records for sink list were only in memory and are lost" in caplog.text


async def test_a_caller_that_waits_is_released_when_the_outbox_closes(tmp_path: Path) -> None:
    """It learns that its record is not in the journal."""
    box = journal_of(tmp_path, DownSink(), when_slow="wait", shutdown_timeout_s=0.3)
    async with box:
        await box.offer(record())
        holding = hanging(journals(tmp_path)[0])
        holding.__enter__()
        waiting = asyncio.create_task(box.offer(record()))
        await asyncio.sleep(0.1)
    assert not await asyncio.wait_for(waiting, 2)
    holding.__exit__(None, None, None)


async def test_a_journal_that_hangs_without_offers_is_not_durable(tmp_path: Path) -> None:
    """The access that hangs is measured too: here a cursor is saved."""
    sink = DownSink()
    async with outbox(tmp_path, sink) as box:
        await box.offer(record())
        with hanging(journals(tmp_path)[0]):
            sink.fault = None
            await eventually(lambda: not box.stats().is_durable)
        await eventually(lambda: box.stats().is_durable)


async def test_a_dead_letter_file_that_hangs_holds_up_its_sink_only(tmp_path: Path) -> None:
    """New records are stored, and the other sink gets them, while a dead letter cannot be written."""

    class Rejecting(ListSink):
        name = "rejecting"

        async def deliver(self, records: object, /) -> None:
            raise Rejected("no")

    good, bad = ListSink(), Rejecting()
    async with outbox(tmp_path, good, bad) as box:
        await box.offer(record())
        await eventually(lambda: box.stats().sinks["rejecting"].dropped == {"rejected": 1})
        with hanging(tmp_path / "dead-letters.sqlite"):
            await box.offer(record())
            started_s = time.monotonic()
            assert await box.offer(record())
            assert time.monotonic() - started_s < 0.5
            await eventually(lambda: len(good.ids) == 3)
            assert box.stats().is_durable
            assert box.stats().sinks["rejecting"].waiting == 2
        await eventually(lambda: box.stats().sinks["rejecting"].dropped == {"rejected": 3})
