"""Torn tails: the end of a write-ahead log that SQLite cuts off at the first frame with a wrong checksum.

A frame that a crash left half-written was never committed, and SQLite is right to cut there. After damage in the middle
of the log the cut also takes transactions that were committed; `restore_tail` puts their entries back.
"""

from logging import getLogger

from forge_otel._journal.recovery import IsIntact, LogFiles, Recovered, carve
from forge_otel._journal.segments import DiskSegment
from forge_otel._journal.sqlite_recovery import committed_frames

__all__ = ["restore_tail"]

_logger = getLogger(__name__)


def restore_tail(segment: DiskSegment, log: LogFiles, *, valid_frames: int, is_intact: IsIntact) -> None:
    """Put back committed entries that lie in the log behind the frame at which SQLite cuts it.

    Args:
        segment: the adopted segment.
        log: its log files as they were before SQLite opened them.
        valid_frames: number of frames before the cut.
        is_intact: checks a body.
    """
    if committed_frames(log.wal, log.shm) <= valid_frames:
        return
    last = segment.last_seq
    found = carve(segment.path.read_bytes(), log.wal, after=last, acknowledged=last, is_intact=is_intact)
    tail = Recovered(found.rows, max(found.lost, int(not found.rows)))
    if tail.rows or tail.lost:
        segment.restore(tail, {})
        _logger.error(
            "log of journal %s is damaged: %d records behind the damage recovered, %d or more lost",
            segment.path,
            len(tail.rows),
            tail.lost,
        )
