"""Takes over the files of dead processes, and what is whole of those that are damaged."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from logging import getLogger
from pathlib import Path

from forge_otel._journal import files
from forge_otel._journal.rescue import IsWhole, Remains, cursors_of
from forge_otel._journal.segments import FORMAT, DiskSegment, connect, is_damage

__all__ = ["adopt", "rescue"]

_logger = getLogger(__name__)


def adopt(directory: Path, *, is_whole: IsWhole | None = None) -> Iterator[DiskSegment]:
    """Take over the files in `directory` whose processes are dead, oldest first.

    A damaged file is renamed to `.corrupt` and reported; one of a later format is left alone for a later release.

    Args:
        directory: of the files.
        is_whole: says whether a body is one; with it the whole records of damaged files are put into new ones.
    """
    for path in sorted(directory.glob(files.JOURNALS)):
        try:
            lock = files.lock(path)
            segment = None if lock is None else _open(path, lock, is_whole)
        except (sqlite3.OperationalError, OSError) as exc:
            _logger.warning("the journal %s cannot be opened now and is left for the next start: %s", path, exc)
            continue
        if segment is not None:
            yield segment


def rescue(kept: Path, remains: Remains, *, cursors: Mapping[str, int] | None, is_whole: IsWhole) -> DiskSegment:
    """Make a new file of what is whole in one that was set aside, beside it.

    Args:
        kept: the damaged file.
        remains: what lay beside it.
        cursors: up to where each sink was served; None where that is not known, and each gets everything again.
        is_whole: says whether a body is one.

    Raises:
        OSError, sqlite3.Error: the disk does not take it.
    """
    segment = DiskSegment.create(kept.parent)
    segment.restore(remains.rescue(kept.read_bytes(), cursors=cursors, is_whole=is_whole), cursors or {})
    _logger.error("%d records in %s are whole, %d or more are lost", len(segment.index), kept, segment.lost)
    return segment


def _open(path: Path, lock: int, is_whole: IsWhole | None) -> DiskSegment | None:
    """Open a file that is ours now; None if it is damaged, died before it had a schema, or has a later format."""
    if not path.exists():
        files.remove(path, held=lock)
        return None
    try:
        remains = Remains.of(path)
    except OSError:
        os.close(lock)
        raise
    try:
        version, tables, frames = _look(path)
        if version == FORMAT:
            segment = DiskSegment(path, lock=lock)
            if is_whole is not None:
                _take_tail(segment, remains, frames, is_whole)
            return segment
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            os.close(lock)
            raise
        return _replace(path, lock, exc, remains, is_whole)
    if version == 0 and tables == 0:
        files.remove(path, held=lock)
        return None
    os.close(lock)
    _logger.warning("the journal %s has format %d, which this release does not read; it is left alone", path, version)
    return None


def _look(path: Path) -> tuple[int, int, int]:
    """Return the format of a journal, how many tables it has, and how many frames of its log SQLite takes for whole."""
    with contextlib.closing(connect(path)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        ((_, frames, _),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return version, tables, frames


def _replace(path: Path, lock: int, why: Exception, remains: Remains, is_whole: IsWhole | None) -> DiskSegment | None:
    """Set a damaged file aside, and return a new one with what is whole of it."""
    cursors = cursors_of(path)
    kept = files.set_aside(path, held=lock)
    size_bytes = kept.stat().st_size
    _logger.error("a journal of %d bytes is damaged (%s); it was set aside as %s", size_bytes, why, kept)
    return None if is_whole is None else rescue(kept, remains, cursors=cursors, is_whole=is_whole)


def _take_tail(segment: DiskSegment, remains: Remains, frames: int, is_whole: IsWhole) -> None:
    """Put back what was committed and lies behind a damaged place of the log, where SQLite does not look."""
    rescued = remains.tail(segment.path, frames=frames, after=segment.last_seq, is_whole=is_whole)
    if rescued.rows or rescued.lost:
        segment.restore(rescued, {})
        _logger.error(
            "the log of the journal %s is damaged: %d records behind that are whole, %d or more are lost",
            segment.path,
            len(rescued.rows),
            rescued.lost,
        )
