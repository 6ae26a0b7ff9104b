"""The in-memory index of a segment."""

from forge_otel._journal.index import Row, SegmentIndex


def index(**cursors: int) -> SegmentIndex:
    """Return an index of five entries of 10 bytes that arrived at the seconds 1 to 5."""
    return SegmentIndex([Row(seq, float(seq), 10) for seq in range(1, 6)], cursors)


def test_entries_behind_the_cursor_wait() -> None:
    """Each sink has its own cursor; a sink without one needs every entry."""
    found = index(archive=3)

    assert (found.waiting("archive"), found.oldest_at_s("archive")) == (2, 4.0)
    assert (found.waiting("database"), found.oldest_at_s("database")) == (5, 1.0)
    found.cursors["archive"] = 5
    assert (found.waiting("archive"), found.oldest_at_s("archive")) == (0, None)


def test_dropped_entries_free_their_size() -> None:
    """Dropping keeps the entries behind the number, and the last sequence number."""
    found = index()

    found.drop_until(2)

    assert (len(found), found.size_bytes, found.last_seq) == (3, 30, 5)
    found.drop_until(9)
    assert (len(found), found.size_bytes, found.last_seq) == (0, 0, 0)
