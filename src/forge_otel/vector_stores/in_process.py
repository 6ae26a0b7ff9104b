"""Vectors in matrices in this process, backed by SQLite: `vectors://` in memory, `vectors://./file.db` on disk.

Points are grouped by scope, so a search multiplies only candidates. All work is done in one thread, so the event loop
is never blocked, and neither the matrices nor the database need a lock. Several processes may share a file: before each
search a process reads the points that other processes have added.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import unquote, urlsplit

from forge_otel.errors import needs
from forge_otel.types import Neighbour, Point

with needs("vectors"):
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["VectorMatrix", "open_url"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)

Row = tuple[int, str, str, str, bytes, float]

# Most scopes have one point.
_FIRST_ROWS: Final = 4
# Decoding rows holds the GIL; between two batches the event loop can run.
_BATCH: Final = 128
_MAX_POINTS: Final = 50_000
# Short, because a search is not worth waiting for another process's long write transaction.
_BUSY_TIMEOUT_S: Final = 0.2
# Oldest points that are evicted at once when there are too many.
_EVICTED_POINTS: Final = 500

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS points (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    facts TEXT NOT NULL,
    vector BLOB NOT NULL,
    expires_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS points_by_end ON points (expires_at);
"""


class _Scope:
    """The points of one scope: the rows of one matrix, which grows by half of its size."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.ids: list[str] = []
        self.facts: list[str] = []
        self.expires_at: list[float] = []
        self._rows: NDArray[np.float32] = np.empty((_FIRST_ROWS, dimensions), np.float32)

    def add(self, row: Row, vector: NDArray[np.float32]) -> int:
        index = len(self.ids)
        if index == len(self._rows):
            # NumPy copies without the GIL.
            more = np.empty((max(_FIRST_ROWS, index // 2), self.dimensions), np.float32)
            self._rows = np.concatenate([self._rows, more])
        self._rows[index] = vector
        self.ids.append(row[1])
        self.facts.append(row[3])
        self.expires_at.append(row[5])
        return index

    def remove(self, index: int) -> str | None:
        """Replace the row at `index` by the last one; return the id of the row that moved, or None."""
        last = len(self.ids) - 1
        self.ids[index], self.facts[index], self.expires_at[index] = (
            self.ids[last],
            self.facts[last],
            self.expires_at[last],
        )
        for column in (self.ids, self.facts, self.expires_at):
            column.pop()
        if index == last:
            return None
        self._rows[index] = self._rows[last]
        return self.ids[index]

    def similarities(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        # Row by row: one matrix product (BLAS) would occupy all cores, including that of the event loop.
        return cast("NDArray[np.float32]", np.vecdot(self._rows[: len(self.ids)], vector))


class VectorMatrix:
    """Points in matrices and in SQLite.

    Args:
        path: of the database; None keeps the points in memory.
        max_points: number of points above which the oldest are evicted.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: Path | None = None, *, max_points: int = _MAX_POINTS, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._max_points = max_points
        self._clock = clock
        self._thread = _new_thread()
        self._database: sqlite3.Connection | None = None
        self._scopes: dict[str, _Scope] = {}
        self._positions: dict[str, tuple[str, int]] = {}
        self._read_to = 0

    async def __aenter__(self) -> Self:
        try:
            await self._run(self._opened)
        except (OSError, sqlite3.Error) as exc:
            # Each search tries again; a broken cache must not keep the service from starting.
            _logger.warning("vectors cannot be opened (%s: %s)", type(exc).__name__, exc)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._run(self._close)
        self._thread.shutdown(wait=False)
        self._thread = _new_thread()

    def __len__(self) -> int:
        return len(self._positions)

    async def search(self, scope: str, vector: Sequence[float], *, limit: int) -> list[Neighbour]:
        """Return the points of `scope` that are nearest to `vector`, nearest first."""
        return await self._run(self._search, scope, vector, limit)

    async def put(self, point: Point, /) -> None:
        """Store `point`, replacing a point of the same id."""
        await self._run(self._put, point)

    async def remove(self, ids: Sequence[str], /) -> None:
        """Delete the points of these ids."""
        await self._run(self._remove, list(ids))

    async def sweep(self) -> int:
        """Delete expired points and return how many there were."""
        return await self._run(self._sweep)

    async def ping(self) -> None:
        """Raise unless the database can be read."""
        await self._run(lambda: self._opened().execute("SELECT 1").fetchone())

    def _run(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = _connect(self._path)
            self._read_new_rows()
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None
        self._scopes, self._positions, self._read_to = {}, {}, 0

    def _read_new_rows(self) -> None:
        rows = self._opened().execute(
            "SELECT seq, id, scope, facts, vector, expires_at FROM points WHERE seq > ? ORDER BY seq", (self._read_to,)
        )
        while batch := rows.fetchmany(_BATCH):
            for row in batch:
                self._index(row)

    def _index(self, row: Row) -> None:
        self._unindex([row[1]])
        self._read_to = max(self._read_to, row[0])
        vector = np.frombuffer(row[4], np.float32)
        scope = self._scopes.setdefault(row[2], _Scope(len(vector)))
        # All vectors of a scope come from one model, so a row of other dimensions is foreign and is skipped.
        if len(vector) == scope.dimensions:
            self._positions[row[1]] = (row[2], scope.add(row, vector))

    def _unindex(self, ids: Iterable[str]) -> None:
        for point_id in ids:
            found = self._positions.pop(point_id, None)
            if found is None:
                continue
            scope = self._scopes[found[0]]
            moved = scope.remove(found[1])
            if moved is not None:
                self._positions[moved] = found
            if not scope.ids:
                del self._scopes[found[0]]

    def _search(self, scope_id: str, vector: Sequence[float], limit: int) -> list[Neighbour]:
        self._read_new_rows()
        scope = self._scopes.get(scope_id)
        wanted = np.asarray(vector, np.float32)
        if scope is None or len(wanted) != scope.dimensions:
            return []
        found = scope.similarities(wanted)
        # Twice the limit, because some may have expired since the last sweep.
        count = min(2 * limit, len(found))
        nearest = np.argpartition(found, len(found) - count)[-count:]
        nearest = nearest[np.argsort(-found[nearest])]
        now = self._clock()
        return [
            Neighbour(id=scope.ids[index], facts=scope.facts[index], similarity=float(found[index]))
            for index in nearest.tolist()
            if scope.expires_at[index] > now
        ][:limit]

    def _put(self, point: Point) -> None:
        vector = np.asarray(point.vector, np.float32)
        database = self._opened()
        database.execute(
            "INSERT OR REPLACE INTO points (id, scope, facts, vector, expires_at) VALUES (?, ?, ?, ?, ?)",
            (point.id, point.scope, point.facts, vector.tobytes(), point.expires_at),
        )
        # Indexed like the rows of other processes, so that none of theirs with a lower `seq` is skipped.
        self._read_new_rows()
        if len(self._positions) > self._max_points:
            oldest = database.execute("SELECT id FROM points ORDER BY seq LIMIT ?", (_EVICTED_POINTS,)).fetchall()
            self._remove([row[0] for row in oldest])

    def _remove(self, ids: Sequence[str]) -> None:
        self._opened().executemany("DELETE FROM points WHERE id = ?", [(point_id,) for point_id in ids])
        self._unindex(ids)

    def _sweep(self) -> int:
        self._read_new_rows()
        now = self._clock()
        ended = [
            point_id
            for scope in self._scopes.values()
            for point_id, end in zip(scope.ids, scope.expires_at, strict=True)
            if end <= now
        ]
        self._remove(ended)
        return len(ended)


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="forge-vectors")


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return _prepared(":memory:")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _prepared(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as exc:
        # A damaged database is renamed and replaced, because the cache can be filled again.
        renamed = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(renamed)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        _logger.warning("damaged vector database %s renamed to %s (%s)", path.name, renamed.name, exc)
        return _prepared(path)


def _prepared(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
    try:
        # NORMAL: losing the last points in a power cut only costs a cache miss each.
        database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
    except BaseException:
        database.close()
        raise
    return database


def open_url(url: str, **_: Any) -> VectorMatrix:
    """Open `vectors://` in memory, `vectors://./relative.db` or `vectors:///absolute.db` on disk."""
    parts = urlsplit(url)
    path = unquote(parts.netloc + parts.path)
    return VectorMatrix(Path(path).absolute() if path else None)
