"""The chain of segments: where new records go, and how what is delivered leaves the disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_otel._journal.segments import DiskSegment, Segment
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.segment_chain import EncodedRecord, SegmentChain

SINK = "database"


class Journal:
    """A chain on disk with one sink."""

    def __init__(self, folder: Path) -> None:
        self.accounting = DeliveryAccounting((SINK,))
        self.chain = SegmentChain(self.accounting, directory=folder, max_bytes=2**24, is_power_safe=False)

    def take(self, count: int) -> None:
        """Store so many records."""
        drafts = [EncodedRecord(b"body", 0.0, 1) for _ in range(count) if self.accounting.offer(1, limit_bytes=2**24)]
        self.chain.append(drafts)

    def serve(self, segment: Segment, seq: int) -> None:
        """The sink has what the segment holds up to a number."""
        done = seq - segment.index.cursor(SINK)
        self.accounting.acknowledge(SINK, segment.index, seq, delivered=done, dropped={})
        self.chain.save(segment)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    yield journal
    journal.chain.close()


def rows(segment: Segment) -> int:
    """Records that the file has."""
    return len(segment.read(0, 10**9, limit=10**9, limit_bytes=2**30))


def test_a_backlog_is_left_behind(journal: Journal, tmp_path: Path) -> None:
    """New records go to a file of their own as soon as a backlog is delivered, which then goes as a whole."""
    journal.take(3_000)
    backlog = journal.chain.writable_segment()
    journal.serve(backlog, 600)
    live = journal.chain.writable_segment()
    assert live is not backlog
    assert rows(backlog) == 3_000
    journal.take(1)
    assert [rows(segment) for segment in (backlog, live)] == [3_000, 1]
    journal.serve(backlog, 1_500)
    assert journal.chain.writable_segment() is live
    assert rows(backlog) == 3_000
    assert isinstance(backlog, DiskSegment)
    journal.serve(backlog, 3_000)
    assert not backlog.path.exists()
    journal.serve(live, 1)
    assert journal.accounting.waiting(SINK) == 0
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix == ".journal"] == [".journal"]


def test_what_is_usual_stays_in_one_file(journal: Journal) -> None:
    """Neither many records that are delivered one after the other, nor a sink that is away, make more files."""
    segment = journal.chain.writable_segment()
    for seq in range(1, 2_001):
        journal.take(1)
        journal.serve(segment, seq)
    journal.take(3_000)
    journal.serve(segment, 2_400)
    assert journal.chain.writable_segment() is segment
    assert rows(segment) == 2_600


def test_a_disk_that_takes_no_new_file_costs_nothing(tmp_path: Path) -> None:
    """The backlog stays where it is, and so do those who come later."""
    folder = tmp_path / "journal"
    on_disk = Journal(folder)
    on_disk.take(3_000)
    backlog = on_disk.chain.writable_segment()
    folder.rename(tmp_path / "away")
    folder.write_text("no folder can be made here")
    on_disk.serve(backlog, 600)
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert on_disk.chain.writable_segment() is backlog
    assert rows(backlog) == 2_400
    on_disk.serve(backlog, 3_000)
    on_disk.chain.close()
    assert on_disk.accounting.counts()[SINK].delivered == 3_000
    assert list(folder.iterdir()) == []
