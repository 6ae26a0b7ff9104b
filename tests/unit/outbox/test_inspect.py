"""The operators' view of journals."""

import time
from pathlib import Path

from forge_otel._journal.segments import DiskSegment
from forge_otel.outbox.inspect import journals, waiting


def test_acknowledged_records_are_not_shown(tmp_path: Path) -> None:
    """Full journals are removed as a whole, so a file can hold records that every sink has acknowledged."""
    segment = DiskSegment.create(tmp_path)
    segment.index.extend(segment.append([(time.time(), body) for body in (b"one", b"two", b"three")]))
    segment.save({"archive": 2, "database": 1}, 0)
    segment.close()

    [found] = journals(tmp_path)
    assert list(waiting(tmp_path)) == [b"two", b"three"]
    assert (found.records, found.waiting) == (2, {"archive": 1, "database": 2})
