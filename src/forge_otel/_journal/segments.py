"""Segments of a journal: a SQLite file that outlives a killed process, or memory where no disk will do.

A segment is written by one thread and read by another. A file belongs to the process that holds the flock of the
`.lock` beside it; the lock dies with the process, whatever killed it, so that a successor can tell and adopt the
file. (The lock is not taken on the database itself, because closing any descriptor of it would drop SQLite's own.)
WAL with `synchronous=NORMAL` survives the death of the process at any moment; a power cut may cost the last commits,
never the file. With `FULL` it costs nothing, and each commit takes as long as the disk does.
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
from forge_otel._journal.index import Index, Row
from forge_otel._journal.rescue import Rescued

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

_abandoned: list[sqlite3.Connection] = []

Body = tuple[float, bytes]
"""When a record was taken (Unix time in seconds), and its encoded form."""


class Segment(Protocol):
    """Holds encoded records in order, numbered upwards, until every sink has them."""

    index: Index

    def append(self, bodies: Sequence[Body]) -> list[Row]:
        """Store all or none, and return their rows; they survive what the segment survives once this returns."""
        ...

    def read(self, after: int, last: int, *, limit: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Return records after number `after` up to `last`: at most `limit`, about `limit_bytes`, at least one."""
        ...

    def save(self, cursors: Mapping[str, int], floor: int) -> None:
        """Store up to where each sink is served, and delete the records up to number `floor`."""
        ...

    def close(self) -> None:
        """Release everything; what waits is kept where the segment outlives the process."""
        ...


class MemorySegment:
    """Holds records for as long as the process lives."""

    def __init__(self) -> None:
        self.index = Index()
        self._bodies: dict[int, bytes] = {}
        self._last_seq = 0
        self._lock = threading.Lock()

    def append(self, bodies: Sequence[Body]) -> list[Row]:
        """Store the records; never fails."""
        with self._lock:
            first = self._last_seq + 1
            self._last_seq += len(bodies)
            self._bodies.update(enumerate((body for _, body in bodies), first))
        return [Row(seq, at_s, len(body)) for seq, (at_s, body) in enumerate(bodies, first)]

    def read(self, after: int, last: int, *, limit: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Return records after number `after` up to `last`."""
        with self._lock:
            rows = ((seq, body) for seq, body in self._bodies.items() if after < seq <= last)
            return list(_within(rows, limit=limit, limit_bytes=limit_bytes))

    def save(self, cursors: Mapping[str, int], floor: int) -> None:
        """Free the records up to number `floor`."""
        del cursors
        with self._lock:
            while self._bodies and (first := next(iter(self._bodies))) <= floor:
                del self._bodies[first]

    def close(self) -> None:
        """Free everything."""
        with self._lock:
            self._bodies.clear()


class DiskSegment:
    """Holds records in one SQLite file; made by `create` or found by `adoption.adopt`.

    Args:
        path: the file, which has to hold the schema.
        lock: descriptor of the `.lock` file that makes it ours.
        is_power_safe: flush each commit to the disk itself, so that a power cut takes nothing either.

    Raises:
        sqlite3.Error: the file cannot be read, or is damaged.
    """

    def __init__(self, path: Path, *, lock: int, is_power_safe: bool = False) -> None:
        self.path = path
        self.lost = 0
        """Records that were in the files and are known to be damaged."""
        self._lock = lock
        self._inode = path.stat().st_ino
        self._reading = threading.Lock()
        self._writer = connect(path, is_power_safe=is_power_safe)
        try:
            # Now, because a file that somebody removes can be read as long as it is open.
            self._reader = connect(path)
            self.index = self._load()
        except BaseException:
            self._writer.close()
            raise
        self._last_seq = max(self.index.last_seq, *self.index.cursors.values(), 0)

    @property
    def last_seq(self) -> int:
        """The number of the last record that was stored here."""
        return self._last_seq

    @property
    def is_there(self) -> bool:
        """Whether the file is still in its place, where a successor would find it."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    @classmethod
    def create(cls, directory: Path, *, is_power_safe: bool = False) -> Self:
        """Make a new file in `directory`, which is made too; only its owner may read them.

        Raises:
            OSError, sqlite3.Error: the disk does not take it.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f"{new_id()}{files.SUFFIX}"
        lock = files.lock(path)
        if lock is None:
            raise OSError(f"{path} is locked by another process")
        try:
            # SQLite would make the file readable for everybody, and its -wal and -shm follow the file.
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
        """Store all or none in one transaction."""
        first = self._last_seq + 1
        rows = [Row(seq, at_s, len(body)) for seq, (at_s, body) in enumerate(bodies, first)]
        with _transaction(self._writer):
            self._writer.executemany(
                "INSERT INTO record (seq, at, body) VALUES (?, ?, ?)",
                [(row.seq, row.at_s, body) for row, (_, body) in zip(rows, bodies, strict=True)],
            )
        self._last_seq += len(rows)
        return rows

    def restore(self, rescued: Rescued, cursors: Mapping[str, int]) -> None:
        """Put back what was rescued, under its old numbers, and up to where each sink was served."""
        with _transaction(self._writer):
            self._writer.executemany("INSERT INTO record (seq, at, body) VALUES (?, ?, ?)", rescued.rows)
        self.index.extend([Row(seq, at_s, len(body)) for seq, at_s, body in rescued.rows])
        self.index.cursors.update(cursors)
        self._last_seq = max(self.index.last_seq, *self.index.cursors.values(), 0)
        self.lost = rescued.lost

    def read(self, after: int, last: int, *, limit: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Return records after number `after` up to `last`, through a connection of the reading thread's own."""
        with self._reading:
            statement = "SELECT seq, body FROM record WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
            with contextlib.closing(self._reader.execute(statement, (after, last, limit))) as rows:
                return list(_within(rows, limit=limit, limit_bytes=limit_bytes))

    def save(self, cursors: Mapping[str, int], floor: int) -> None:
        """Store the cursors and delete the records up to number `floor`, in one transaction."""
        with _transaction(self._writer):
            self._writer.executemany(
                "INSERT INTO cursor (sink, seq) VALUES (?, ?) ON CONFLICT (sink) DO UPDATE SET seq = excluded.seq",
                list(cursors.items()),
            )
            self._writer.execute("DELETE FROM record WHERE seq <= ?", (floor,))

    def close(self) -> None:
        """Close the file and give it up: an empty one is deleted, another waits to be adopted."""
        self._disconnect()
        if len(self.index):
            os.close(self._lock)
        else:
            files.remove(self.path, held=self._lock)

    def abandon(self) -> None:
        """Leave the file to the parent, in a forked child: closing it here would meddle with what is the parent's."""
        # The lock is shared with the parent: a child that kept it would keep the file from ever being adopted.
        os.close(self._lock)
        # SQLite must not close in one process what was opened in another, and garbage collection would close it.
        _abandoned.extend((self._writer, self._reader))

    def set_aside(self) -> Path:
        """Close the file, give it up, and rename it, so that nobody adopts it and somebody may look at it."""
        self._disconnect()
        return files.set_aside(self.path, held=self._lock)

    def _load(self) -> Index:
        # Walks every leaf of the table without reading the bodies, and so finds a damaged tree before it is used.
        rows = self._writer.execute("SELECT seq, at, length(body) FROM record ORDER BY seq")
        try:
            return Index([Row(*row) for row in rows], dict(self._writer.execute("SELECT sink, seq FROM cursor")))
        except (TypeError, OverflowError) as exc:
            raise sqlite3.DatabaseError(f"a row holds what was never written: {exc}") from exc

    def _disconnect(self) -> None:
        with self._reading, contextlib.suppress(sqlite3.Error):
            self._writer.close()
            self._reader.close()


def is_damage(exc: BaseException) -> bool:
    """Say whether `exc` means that the file is broken, not that the disk is in trouble."""
    # CPython raises the plain class for SQLITE_CORRUPT and SQLITE_NOTADB; trouble and misuse have subclasses.
    return type(exc) is sqlite3.DatabaseError


def connect(path: Path, *, is_power_safe: bool = False) -> sqlite3.Connection:
    """Open a file that is there."""
    # mode=rw: a reader that comes after the file was removed must not make an empty one in its place.
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
