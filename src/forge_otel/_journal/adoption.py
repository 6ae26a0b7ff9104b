"""Adoption of segments that dead processes left behind, damaged ones included."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from logging import getLogger
from pathlib import Path

from forge_otel._journal import files
from forge_otel._journal.recovery import IsIntact, LogFiles, read_cursors, recover_file
from forge_otel._journal.segments import FORMAT, DiskSegment, connect, is_damage
from forge_otel._journal.torn_tail import restore_tail

__all__ = ["adopt", "recover_segment"]

_logger = getLogger(__name__)


def adopt(directory: Path, *, is_intact: IsIntact | None = None) -> Iterator[DiskSegment]:
    """Take over the journals in `directory` whose processes are dead, oldest first.

    A damaged journal is renamed to `….corrupt`. A journal in a later format is left for a later release.

    Args:
        directory: folder of the journals.
        is_intact: checks a body; with it the intact entries of damaged journals are copied into new segments.
    """
    for path in sorted(directory.glob(files.JOURNALS)):
        try:
            lock = files.lock(path)
            segment = None if lock is None else _open(path, lock, is_intact)
        except (sqlite3.OperationalError, OSError) as exc:
            _logger.warning("journal %s cannot be opened and is left for the next start: %s", path, exc)
            continue
        if segment is not None:
            yield segment


def recover_segment(
    damaged: Path, log: LogFiles, *, cursors: Mapping[str, int] | None, is_intact: IsIntact
) -> DiskSegment:
    """Copy the intact entries of a journal that was set aside into a new segment in the same folder.

    Args:
        damaged: the damaged file.
        log: its log files.
        cursors: delivery cursor of each sink; None where they are unknown, then each sink gets every entry again.
        is_intact: checks a body.

    Raises:
        OSError, sqlite3.Error: the new segment cannot be written.
    """
    segment = DiskSegment.create(damaged.parent)
    segment.restore(recover_file(damaged.read_bytes(), log, cursors=cursors, is_intact=is_intact), cursors or {})
    _logger.error("%d records in %s recovered, %d or more lost", len(segment.index), damaged, segment.lost)
    return segment


def _open(path: Path, lock: int, is_intact: IsIntact | None) -> DiskSegment | None:
    """Open a journal whose lock we hold; None if it is damaged, has no schema yet, or has a later format."""
    if not path.exists():
        files.remove(path, held=lock)
        return None
    try:
        log = LogFiles.of(path)
    except OSError:
        os.close(lock)
        raise
    try:
        version, tables, valid_frames = _inspect(path)
        if version == FORMAT:
            segment = DiskSegment(path, lock=lock)
            if is_intact is not None:
                restore_tail(segment, log, valid_frames=valid_frames, is_intact=is_intact)
            return segment
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            os.close(lock)
            raise
        return _replace(path, lock, exc, log, is_intact)
    if version == 0 and tables == 0:
        files.remove(path, held=lock)
        return None
    os.close(lock)
    _logger.warning("journal %s has format %d, which this release cannot read; it is not changed", path, version)
    return None


def _inspect(path: Path) -> tuple[int, int, int]:
    """Return the format of a journal, its number of tables, and the number of valid frames in its log."""
    with contextlib.closing(connect(path)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        ((_, frames, _),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return version, tables, frames


def _replace(path: Path, lock: int, why: Exception, log: LogFiles, is_intact: IsIntact | None) -> DiskSegment | None:
    """Set a damaged journal aside and return a new segment with its intact entries."""
    cursors = read_cursors(path)
    damaged = files.set_aside(path, held=lock)
    size_bytes = damaged.stat().st_size
    _logger.error("journal of %d bytes is damaged (%s); it was set aside as %s", size_bytes, why, damaged)
    return None if is_intact is None else recover_segment(damaged, log, cursors=cursors, is_intact=is_intact)
