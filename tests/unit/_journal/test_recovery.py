"""Recovery of a damaged segment, and the count of its lost entries."""

from pathlib import Path

import pytest

from forge_otel._journal.recovery import LogFiles, read_cursors, recover_file
from forge_otel._journal.segments import DiskSegment

COUNT = 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed journal of 30 entries, two to a page, of which one sink has acknowledged ten."""
    segment = DiskSegment.create(tmp_path)
    segment.index.extend(segment.append([(1.0, b"%02d" % n * 900) for n in range(COUNT)]))
    segment.save({"archive": 10, "database": 12}, 0)
    segment.close()
    return segment.path


def is_intact(body: bytes) -> bool:
    """Return whether a body is two digits repeated."""
    return body == body[:2] * 900


def without(content: bytes, body: bytes) -> bytes:
    """Return the content with one body changed."""
    assert body in content
    return content.replace(body, b"x" + body[1:])


def test_entries_that_a_sink_still_needs_are_counted_as_lost(path: Path) -> None:
    """A damaged entry is lost unless every sink has acknowledged it."""
    content = path.read_bytes()
    cursors = read_cursors(path)
    assert cursors == {"archive": 10, "database": 12}

    needed = recover_file(without(content, b"20" * 900), LogFiles(), cursors=cursors, is_intact=is_intact)
    acknowledged = recover_file(without(content, b"03" * 900), LogFiles(), cursors=cursors, is_intact=is_intact)

    assert (len(needed.rows), needed.lost) == (COUNT - 1, 1)
    assert (len(acknowledged.rows), acknowledged.lost) == (COUNT - 1, 0)


def test_a_file_without_a_readable_entry_counts_one_loss(path: Path) -> None:
    """The number of lost entries is unknown, the loss itself is not."""
    recovered = recover_file(b"\xff" * path.stat().st_size, LogFiles(), cursors=None, is_intact=is_intact)

    assert (recovered.rows, recovered.lost) == ([], 1)


def test_cursors_of_an_unreadable_file_are_unknown(path: Path) -> None:
    """None is not an empty mapping: every sink gets every entry again."""
    path.write_bytes(b"\xff" * path.stat().st_size)

    assert read_cursors(path) is None
