"""Journal segments: a SQLite file that survives a killed process, or memory where the disk fails.

One thread writes a segment, another reads it. A file belongs to the process that holds the `flock` on its `.lock` file.
With `synchronous=NORMAL` a file survives the death of its process at any moment, and a power cut may cost the last
commits; with `FULL` a power cut costs nothing, and each commit waits for the disk.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import quote

from forge_otel._internal.ids import new_id
from forge_otel._journal import files
from forge_otel._journal.index import Row, SegmentIndex
from forge_otel._journal.recovery import Recovered

__all__ = ["FORMAT", "DiskSegment", "MemorySegment", "Segment", "connect", "is_damage"]

_logger = getLogger(__name__)
FORMAT: Final = 1
_BUSY_TIMEOUT_S: Final = 5.0
_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE record (seq INTEGER PRIMARY KEY, at REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE cursor (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
COMMIT;
"""

# Connections of a parent process, held in a forked child so that they are never closed there.
_abandoned: Final[list[sqlite3.Connection]] = []

Body = tuple[float, bytes]
"""Unix time of arrival in seconds, and the encoded entry."""


class Segment(Protocol):
    """Encoded entries in order, with increasing sequence numbers, until every sink has acknowledged them."""

    index: SegmentIndex

    def append(self, bodies: Sequence[Body]) -> list[Row]:
        """Store all bodies or none, and return their rows."""
        ...

    def rewrite(self, bodies: Mapping[int, bytes]) -> None:
        """Replace the entries with these sequence numbers, all or none."""
        ...

    def read(self, after: int, last: int, *, limit: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Return entries after number `after` up to `last`: at most `limit`, about `limit_bytes`, at least one."""
        ...

    def save(self, cursors: Mapping[str, int], acknowledged: int) -> None:
        """Store the cursors, and delete the entries up to number `acknowledged`."""
        ...

    def close(self) -> None:
        """Release the resources; a segment on disk keeps its entries for adoption."""
        ...


class MemorySegment:
    """Segment in memory; its entries die with the process."""

    def __init__(self) -> None:
        self.index = SegmentIndex()
        self._bodies: dict[int, bytes] = {}
        self._last_seq = 0
        self._lock = threading.Lock()

    def append(self, bodies: Sequence[Body]) -> list[Row]:
        """Store the bodies; this never fails."""
        with self._lock:
            first = self._last_seq + 1
            self._last_seq += len(bodies)
            self._bodies.update(enumerate((body for _, body in bodies), first))
        return [Row(seq, at_s, len(body)) for seq, (at_s, body) in enumerate(bodies, first)]

    def rewrite(self, bodies: Mapping[int, bytes]) -> None:
        """Replace entries; this never fails."""
        with self._lock:
            self._bodies.update(bodies)

    def read(self, after: int, last: int, *, limit: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Return entries after number `after` up to `last`."""
        with self._lock:
            rows = ((seq, body) for seq, body in self._bodies.items() if after < seq <= last)
            return list(_within(rows, limit=limit, limit_bytes=limit_bytes))

    def save(self, cursors: Mapping[str, int], acknowledged: int) -> None:
        """Free the entries up to number `acknowledged`."""
        del cursors
        with self._lock:
            while self._bodies and (first := next(iter(self._bodies))) <= acknowledged:
                del self._bodies[first]

    def close(self) -> None:
        """Free all entries."""
        with self._lock:
            self._bodies.clear()


class DiskSegment:
    """Segment in one SQLite file; made by `create` or found by `adoption.adopt`.

    Args:
        path: the file, with its schema.
        lock: descriptor that holds the lock on the `.lock` file.
        is_power_safe: flush each commit to the disk, so that it survives a power cut.

    Raises:
        sqlite3.Error: the file cannot be read, or is damaged.
    """

    def __init__(self, path: Path, *, lock: int, is_power_safe: bool = False) -> None:
        self.path = path
        self.lost = 0
        """Number of entries of a damaged file that could not be recovered."""
        # The lock is not on the database: closing any descriptor of that file would release SQLite's own locks.
        self._lock = lock
        self._inode = path.stat().st_ino
        self._reading = threading.Lock()
        self._writer = connect(path, is_power_safe=is_power_safe)
        try:
            # Opened now: if an operator removes the file later, an open descriptor can still read it.
            self._reader = connect(path)
            self.index = self._load_index()
        except BaseException:
            self._writer.close()
            raise
        self._last_seq = max(self.index.last_seq, *self.index.cursors.values(), 0)

    @property
    def last_seq(self) -> int:
        """Sequence number of the last entry that was stored."""
        return self._last_seq

    @property
    def has_file(self) -> bool:
        """Return whether the file still has its path, where a successor would find it."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    @classmethod
    def create(cls, directory: Path, *, is_power_safe: bool = False) -> Self:
        """Create a file in `directory`, and the folder if it is missing, readable by their owner only.

        Raises:
            OSError, sqlite3.Error: the file cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f"{new_id()}{files.SUFFIX}"
        lock = files.lock(path)
        if lock is None:
            raise OSError(f"{path} is locked by another process")
        try:
            # SQLite would create the file with mode 0644; -wal and -shm inherit the mode of the file.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with contextlib.closing(connect(path)) as connection:
                connection.executescript(_SCHEMA)
            if is_power_safe:
                files.sync_folder(directory)
            return cls(path, lock=lock, is_power_safe=is_power_safe)
        except BaseException:
            files.remove(path, held=lock)
            raise

    def append(self, bodies: Sequence[Body]) -> list[Row]:
        """Store all bodies or none, in one transaction."""
        first = self._last_seq + 1
        rows = [Row(seq, at_s, len(body)) for seq, (at_s, body) in enumerate(bodies, first)]
        with _transaction(self._writer):
            self._writer.executemany(
                "INSERT INTO record (seq, at, body) VALUES (?, ?, ?)",
                [(row.seq, row.at_s, body) for row, (_, body) in zip(rows, bodies, strict=True)],
            )
        self._last_seq += len(rows)
        return rows

    def rewrite(self, bodies: Mapping[int, bytes]) -> None:
        """Replace entries, in one transaction."""
        with _transaction(self._writer):
            self._writer.executemany(
                "UPDATE record SET body = ? WHERE seq = ?", [(body, seq) for seq, body in bodies.items()]
            )

    def restore(self, recovered: Recovered, cursors: Mapping[str, int]) -> None:
        """Store recovered entries under their old sequence numbers, and set the cursors."""
        with _transaction(self._writer):
            self._writer.executemany("INSERT INTO record (seq, at, body) VALUES (?, ?, ?)", recovered.rows)
        self.index.extend([Row(seq, at_s, len(body)) for seq, at_s, body in recovered.rows])
        self.index.cursors.update(cursors)
        self._last_seq = max(self.index.last_seq, *self.index.cursors.values(), 0)
        self.lost = recovered.lost

    def read(self, after: int, last: int, *, limit: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Return entries after number `after` up to `last`, through the reader's own connection."""
        with self._reading:
            statement = "SELECT seq, body FROM record WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
            with contextlib.closing(self._reader.execute(statement, (after, last, limit))) as rows:
                return list(_within(rows, limit=limit, limit_bytes=limit_bytes))

    def save(self, cursors: Mapping[str, int], acknowledged: int) -> None:
        """Store the cursors and delete the entries up to number `acknowledged`, in one transaction."""
        with _transaction(self._writer):
            self._writer.executemany(
                "INSERT INTO cursor (sink, seq) VALUES (?, ?) ON CONFLICT (sink) DO UPDATE SET seq = excluded.seq",
                list(cursors.items()),
            )
            self._writer.execute("DELETE FROM record WHERE seq <= ?", (acknowledged,))

    def close(self) -> None:
        """Close the file and release its lock; an empty file is deleted, any other is left for adoption."""
        self._disconnect()
        if len(self.index):
            os.close(self._lock)
        else:
            files.remove(self.path, held=self._lock)

    def abandon(self) -> None:
        """Release the file in a forked child without closing its connections, which are the parent's."""
        # The child shares the lock: if it kept the descriptor, no process could adopt the file after the parent.
        os.close(self._lock)
        # SQLite forbids closing a connection across a fork, and garbage collection would close it.
        _abandoned.extend((self._writer, self._reader))

    def set_aside(self) -> Path:
        """Close a damaged file, rename it to `….corrupt`, and return its new path."""
        self._disconnect()
        return files.set_aside(self.path, held=self._lock)

    def _load_index(self) -> SegmentIndex:
        # The query visits every leaf without reading bodies, and so finds a damaged tree before it is used.
        rows = self._writer.execute("SELECT seq, at, length(body) FROM record ORDER BY seq")
        try:
            return SegmentIndex([Row(*row) for row in rows], dict(self._writer.execute("SELECT sink, seq FROM cursor")))
        except (TypeError, OverflowError) as exc:
            raise sqlite3.DatabaseError(f"a row has values of unexpected types: {exc}") from exc

    def _disconnect(self) -> None:
        with self._reading, contextlib.suppress(sqlite3.Error):
            self._writer.close()
            self._reader.close()


def is_damage(exc: BaseException) -> bool:
    """Return whether `exc` means that the file is damaged, rather than that the disk fails."""
    # CPython raises the plain class for SQLITE_CORRUPT and SQLITE_NOTADB, and subclasses for all other errors.
    return type(exc) is sqlite3.DatabaseError


def connect(path: Path, *, is_power_safe: bool = False) -> sqlite3.Connection:
    """Open an existing file in WAL mode."""
    # mode=rw: opening a file that was removed meanwhile must fail instead of creating an empty one.
    uri = f"file:{quote(str(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if is_power_safe else 'NORMAL'}")
        connection.execute(f"PRAGMA journal_size_limit = {16 * 2**20}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _within(
    rows: Iterator[tuple[int, bytes]] | sqlite3.Cursor, *, limit: int, limit_bytes: int
) -> Iterator[tuple[int, bytes]]:
    size_bytes = 0
    for count, (seq, body) in enumerate(rows, 1):
        yield seq, body
        size_bytes += len(body)
        if count >= limit or size_bytes >= limit_bytes:
            return
