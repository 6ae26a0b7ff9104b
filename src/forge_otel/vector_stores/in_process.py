"""Vectors in a matrix in this process, over rows in SQLite: `vectors://` in memory, `vectors://./file.db` to keep.

Points are grouped by their scope, so that a look-up multiplies only what may be found. Everything happens in one thread
of the store's own: the event loop waits for nothing, and neither the matrix nor the database needs a lock. Several
processes may share a file: each reads what the others have added before it looks something up.
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
# Python's lock is held while rows become numbers: the event loop gets its turn between two batches.
_BATCH: Final = 128
_MAX_POINTS: Final = 50_000
# A look-up does not wait for another process that writes for long.
_LOCKED_S: Final = 0.2
# How many of the oldest go at once when there are too many.
_EVICTED: Final = 500

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
    """The points of one scope: a row each of one matrix, which grows by half of what it is."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.ids: list[str] = []
        self.facts: list[str] = []
        self.ends: list[float] = []
        self._rows: NDArray[np.float32] = np.empty((_FIRST_ROWS, dimensions), np.float32)

    def add(self, row: Row, vector: NDArray[np.float32]) -> int:
        place = len(self.ids)
        if place == len(self._rows):
            # Copied without Python's lock, so that nobody waits for it.
            more = np.empty((max(_FIRST_ROWS, place // 2), self.dimensions), np.float32)
            self._rows = np.concatenate([self._rows, more])
        self._rows[place] = vector
        self.ids.append(row[1])
        self.facts.append(row[3])
        self.ends.append(row[5])
        return place

    def remove(self, place: int) -> str | None:
        """Put the last row in the place of a removed one; return the id that moved."""
        last = len(self.ids) - 1
        self.ids[place], self.facts[place], self.ends[place] = self.ids[last], self.facts[last], self.ends[last]
        for column in (self.ids, self.facts, self.ends):
            column.pop()
        if place == last:
            return None
        self._rows[place] = self._rows[last]
        return self.ids[place]

    def similarities(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        # By rows and not as one product: that would take all processors, and with them the event loop's.
        return cast("NDArray[np.float32]", np.vecdot(self._rows[: len(self.ids)], vector))


class VectorMatrix:
    """Keeps points in a matrix and in SQLite.

    Args:
        path: of the database; None keeps nothing beyond the process.
        max_points: with more, the oldest are forgotten.
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
        self._places: dict[str, tuple[str, int]] = {}
        self._read_to = 0

    async def __aenter__(self) -> Self:
        try:
            await self._run(self._opened)
        except (OSError, sqlite3.Error) as exc:
            # It is tried again with each look-up; no service stays down for its cache.
            _logger.warning("the vectors cannot be opened (%s: %s)", type(exc).__name__, exc)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._run(self._close)
        self._thread.shutdown(wait=False)
        self._thread = _new_thread()

    def __len__(self) -> int:
        return len(self._places)

    async def search(self, scope: str, vector: Sequence[float], *, limit: int) -> list[Neighbour]:
        """Return the points of `scope` that are nearest to `vector`, nearest first."""
        return await self._run(self._search, scope, vector, limit)

    async def put(self, point: Point, /) -> None:
        """Keep `point`, in place of one of the same id."""
        await self._run(self._put, point)

    async def remove(self, ids: Sequence[str], /) -> None:
        """Forget the points of these ids."""
        await self._run(self._remove, list(ids))

    async def sweep(self) -> int:
        """Forget the points whose life is over; return how many there were."""
        return await self._run(self._sweep)

    async def ping(self) -> None:
        """Raise if the database cannot be read."""
        await self._run(lambda: self._opened().execute("SELECT 1").fetchone())

    def _run(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = _connect(self._path)
            self._read_news()
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None
        self._scopes, self._places, self._read_to = {}, {}, 0

    def _read_news(self) -> None:
        rows = self._opened().execute(
            "SELECT seq, id, scope, facts, vector, expires_at FROM points WHERE seq > ? ORDER BY seq", (self._read_to,)
        )
        while batch := rows.fetchmany(_BATCH):
            for row in batch:
                self._place(row)

    def _place(self, row: Row) -> None:
        self._unplace([row[1]])
        self._read_to = max(self._read_to, row[0])
        vector = np.frombuffer(row[4], np.float32)
        scope = self._scopes.setdefault(row[2], _Scope(len(vector)))
        # Vectors of one scope come from one model; anything else was written by nobody of us.
        if len(vector) == scope.dimensions:
            self._places[row[1]] = (row[2], scope.add(row, vector))

    def _unplace(self, ids: Iterable[str]) -> None:
        for point_id in ids:
            found = self._places.pop(point_id, None)
            if found is None:
                continue
            scope = self._scopes[found[0]]
            moved = scope.remove(found[1])
            if moved is not None:
                self._places[moved] = found
            if not scope.ids:
                del self._scopes[found[0]]

    def _search(self, scope_id: str, vector: Sequence[float], limit: int) -> list[Neighbour]:
        self._read_news()
        scope = self._scopes.get(scope_id)
        wanted = np.asarray(vector, np.float32)
        if scope is None or len(wanted) != scope.dimensions:
            return []
        found = scope.similarities(wanted)
        # Twice as many as asked for, because the life of some may be over; what is neither was swept too late.
        some = min(2 * limit, len(found))
        nearest = np.argpartition(found, len(found) - some)[-some:]
        nearest = nearest[np.argsort(-found[nearest])]
        now = self._clock()
        return [
            Neighbour(id=scope.ids[place], facts=scope.facts[place], similarity=float(found[place]))
            for place in nearest.tolist()
            if scope.ends[place] > now
        ][:limit]

    def _put(self, point: Point) -> None:
        vector = np.asarray(point.vector, np.float32)
        database = self._opened()
        database.execute(
            "INSERT OR REPLACE INTO points (id, scope, facts, vector, expires_at) VALUES (?, ?, ?, ?, ?)",
            (point.id, point.scope, point.facts, vector.tobytes(), point.expires_at),
        )
        # Read like what other processes add, so that nothing of theirs is passed over.
        self._read_news()
        if len(self._places) > self._max_points:
            oldest = database.execute("SELECT id FROM points ORDER BY seq LIMIT ?", (_EVICTED,)).fetchall()
            self._remove([row[0] for row in oldest])

    def _remove(self, ids: Sequence[str]) -> None:
        self._opened().executemany("DELETE FROM points WHERE id = ?", [(point_id,) for point_id in ids])
        self._unplace(ids)

    def _sweep(self) -> int:
        self._read_news()
        now = self._clock()
        ended = [
            point_id
            for scope in self._scopes.values()
            for point_id, end in zip(scope.ids, scope.ends, strict=True)
            if end <= now
        ]
        self._remove(ended)
        return len(ended)


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="forge-vectors")


def _connect(path: Path | None) -> sqlite3.Connection:
    """Open the database; one that is damaged is set aside, because all that is in it can be found out anew."""
    if path is None:
        return _prepared(":memory:")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _prepared(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as exc:
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        _logger.warning("%s cannot be read (%s); it is set aside as %s", path.name, exc, aside.name)
        return _prepared(path)


def _prepared(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=_LOCKED_S)
    try:
        # A point that a power cut takes is looked up in vain once.
        database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
    except BaseException:
        database.close()
        raise
    return database


def open_url(url: str, **_: Any) -> VectorMatrix:
    """Open `vectors://` in memory, `vectors://./relative.db` or `vectors:///absolute.db` on disk."""
    parts = urlsplit(url)
    place = unquote(parts.netloc + parts.path)
    return VectorMatrix(Path(place).absolute() if place else None)
