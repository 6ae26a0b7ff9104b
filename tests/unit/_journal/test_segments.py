"""Segments in memory and on disk behave alike; only the one on disk survives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_otel._journal.segments import DiskSegment, MemorySegment, Segment

BODIES = [(float(n), bytes([n]) * 100) for n in range(1, 6)]


@pytest.fixture(params=["memory", "disk"])
def segment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Segment]:
    segment: Segment = MemorySegment() if request.param == "memory" else DiskSegment.create(tmp_path)
    yield segment
    segment.close()


def seqs(segment: Segment, *, after: int = 0, last: int = 99, limit: int = 99, limit_bytes: int = 10_000) -> list[int]:
    """Return the sequence numbers of a read."""
    return [seq for seq, _ in segment.read(after, last, limit=limit, limit_bytes=limit_bytes)]


def test_entries_are_numbered_and_read_in_order(segment: Segment) -> None:
    """Numbers continue over appends, and bodies come back unchanged."""
    rows = [*segment.append(BODIES[:2]), *segment.append(BODIES[2:])]

    assert [(row.seq, row.at_s, row.size_bytes) for row in rows] == [(n, float(n), 100) for n in range(1, 6)]
    assert segment.read(0, 99, limit=99, limit_bytes=10_000) == [(n, body) for n, (_, body) in enumerate(BODIES, 1)]


def test_a_read_keeps_its_limits(segment: Segment) -> None:
    """Range, count and size limit a read; one entry is returned even if it is larger than the size limit."""
    segment.append(BODIES)

    assert seqs(segment, after=1, last=4) == [2, 3, 4]
    assert seqs(segment, limit=2) == [1, 2]
    assert seqs(segment, limit_bytes=150) == [1, 2]
    assert seqs(segment, limit_bytes=1) == [1]


def test_acknowledged_entries_are_deleted(segment: Segment) -> None:
    """Entries up to the given number are gone after `save`."""
    segment.append(BODIES)

    segment.save({"archive": 3}, 3)

    assert seqs(segment) == [4, 5]


def test_an_empty_file_is_deleted_when_it_is_closed(tmp_path: Path) -> None:
    """A file with entries stays for adoption."""
    empty, used = DiskSegment.create(tmp_path), DiskSegment.create(tmp_path)
    used.index.extend(used.append(BODIES))

    empty.close()
    used.close()

    assert list(tmp_path.glob("*.journal")) == [used.path]


@pytest.mark.parametrize(("is_power_safe", "level"), [(False, 1), (True, 2)])
def test_a_power_safe_segment_flushes_each_commit(tmp_path: Path, is_power_safe: bool, level: int) -> None:
    """SQLite's NORMAL survives the death of the process, FULL also survives a power cut."""
    segment = DiskSegment.create(tmp_path, is_power_safe=is_power_safe)

    ((found,),) = segment._writer.execute("PRAGMA synchronous")

    segment.close()
    assert found == level
