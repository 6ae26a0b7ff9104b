"""The chain of segments: where new records are stored, when delivered ones are deleted, and what disk errors cost."""

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.outbox.builders import DownSink, is_balanced, journals, outbox
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel._journal.segments import DiskSegment, Segment
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.codec import decode
from forge_otel.outbox.segment_chain import EncodedRecord, SegmentChain

SINK = "database"


class Journal:
    """A chain on disk with one sink."""

    def __init__(self, folder: Path) -> None:
        self.accounting = DeliveryAccounting((SINK,))
        self.chain = SegmentChain(self.accounting, directory=folder, max_bytes=2**24, is_power_safe=False)

    def store(self, count: int) -> None:
        """Store new records."""
        records = [EncodedRecord(b"body", 0.0, 1) for _ in range(count) if self.accounting.offer(1, limit_bytes=2**24)]
        self.chain.append(records)

    def acknowledge(self, segment: Segment, seq: int) -> None:
        """Deliver the records of a segment up to a number."""
        delivered = seq - segment.index.cursor(SINK)
        self.accounting.acknowledge(SINK, segment.index, seq, delivered=delivered, dropped={})
        self.chain.save(segment)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    yield journal
    journal.chain.close()


def rows(segment: Segment) -> int:
    """Count the records in the file."""
    return len(segment.read(0, 10**9, limit=10**9, limit_bytes=2**30))


def test_a_backlog_is_rotated_out(journal: Journal, tmp_path: Path) -> None:
    """While a backlog is delivered, new records are stored in a new file, and the old one is removed as a whole."""
    journal.store(3_000)
    backlog = journal.chain.writable_segment()
    journal.acknowledge(backlog, 600)
    live = journal.chain.writable_segment()
    assert live is not backlog
    assert rows(backlog) == 3_000
    journal.store(1)
    assert [rows(segment) for segment in (backlog, live)] == [3_000, 1]
    journal.acknowledge(backlog, 1_500)
    assert journal.chain.writable_segment() is live
    assert rows(backlog) == 3_000
    assert isinstance(backlog, DiskSegment)
    journal.acknowledge(backlog, 3_000)
    assert not backlog.path.exists()
    journal.acknowledge(live, 1)
    assert journal.accounting.waiting(SINK) == 0
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix == ".journal"] == [".journal"]


def test_without_a_backlog_one_file_is_used(journal: Journal) -> None:
    """Neither many records that are delivered at once, nor a sink that is unavailable, make a second file."""
    segment = journal.chain.writable_segment()
    for seq in range(1, 2_001):
        journal.store(1)
        journal.acknowledge(segment, seq)
    journal.store(3_000)
    journal.acknowledge(segment, 2_400)
    assert journal.chain.writable_segment() is segment
    assert rows(segment) == 2_600


def test_a_disk_without_room_for_a_new_file_keeps_the_old_one(tmp_path: Path) -> None:
    """If no new file can be created for a backlog, the old file is used on, and no record is lost."""
    folder = tmp_path / "journal"
    on_disk = Journal(folder)
    on_disk.store(3_000)
    backlog = on_disk.chain.writable_segment()
    folder.rename(tmp_path / "away")
    folder.write_text("no folder can be made here")
    on_disk.acknowledge(backlog, 600)
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert on_disk.chain.writable_segment() is backlog
    assert rows(backlog) == 2_400
    on_disk.acknowledge(backlog, 3_000)
    on_disk.chain.close()
    assert on_disk.accounting.counts()[SINK].delivered == 3_000
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("durable", [True, False], ids=["disk", "memory"])
async def test_above_the_size_limit_new_records_are_dropped(tmp_path: Path, durable: bool) -> None:
    """A full journal keeps its records, counts the dropped ones, and raises nothing."""
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


async def test_an_unusable_directory_costs_durability_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records are delivered from memory while the disk fails, and from disk once it is writable again."""
    directory, sink, offered = tmp_path / "outbox", ListSink(), [record() for _ in range(5)]
    directory.write_text("a file where the folder should be")
    caplog.set_level(logging.INFO, "forge_otel")

    async with outbox(directory, sink) as box:
        for item in offered:
            await box.offer(item)
        await eventually(lambda: sink.ids == [item.id for item in offered])
        assert {item.degraded for item in sink.records} == {("outbox:memory",)}
        assert not box.stats().is_durable
        directory.unlink()
        while not box.stats().is_durable:
            offered.append(record())
            await box.offer(offered[-1])
        await eventually(lambda: not box.stats().sinks["list"].waiting)

    assert sink.ids == [item.id for item in offered]
    assert caplog.text.count("cannot be written") == 1
    assert caplog.text.count("writable again") == 1


async def test_a_journal_that_is_damaged_while_in_use_is_replaced(tmp_path: Path) -> None:
    """Damage to an open file drops the records in it, counted, and new records are stored."""
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

    assert is_balanced(lost)
    assert lost.produced == 200
    assert lost.dropped == {"damaged": 200 - lost.delivered}
    assert len(list(tmp_path.glob("*.corrupt"))) == 1


async def test_a_removed_journal_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records of a journal that an operator removed are delivered, and new records are on disk again."""
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


async def test_records_of_a_removed_journal_are_counted_at_the_end(tmp_path: Path) -> None:
    """No successor can adopt a removed file, so its records are dropped when the outbox closes."""
    async with outbox(tmp_path / "box", DownSink(), shutdown_timeout_s=0.2) as box:
        await box.offer(record())
        shutil.rmtree(tmp_path / "box")
    stats = box.stats().sinks["list"]
    assert (stats.dropped, stats.waiting) == ({"shutdown": 1}, 0)
