"""Leases in an SQLite file, for the workers of one host without a Redis.

The file holds the same leases and fences as Redis does, and also the answers, because each worker has a memory cache of
its own. A file lock would be simpler, but it is held for as long as its holder is suspended and has no fence. A file
cannot notify other processes, so waiters poll every 50 ms, which costs one read.

No row has to survive a power cut, so commits are not flushed to the disk.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from forge_otel.leases.notify import WakeupHub
from forge_otel.types import Event, Lease, LeaseHeld, WaitForChange

__all__ = ["SQLiteLeases"]

T = TypeVar("T")

_POLL_S: Final = 0.05
_BUSY_S: Final = 0.1
_FAILURE_TTL_S: Final = 30.0
_VALUE_TTL_S: Final = 60.0
_EVENTS_TTL_S: Final = 600.0
_PAGE: Final = 200
_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS leases (
    key TEXT PRIMARY KEY, token TEXT, fence INTEGER NOT NULL, until_s REAL NOT NULL, life_s REAL NOT NULL,
    failure BLOB, failed_s REAL, value BLOB, made_s REAL
);
CREATE INDEX IF NOT EXISTS leases_by_end ON leases (until_s);
CREATE INDEX IF NOT EXISTS values_by_age ON leases (made_s) WHERE made_s IS NOT NULL;
CREATE TABLE IF NOT EXISTS events (
    key TEXT, fence INTEGER, number INTEGER, at_s REAL, data BLOB, PRIMARY KEY (key, fence, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_by_age ON events (at_s);
"""


class SQLiteLeases:
    """Leases in one file.

    Args:
        path: the file, on a local disk; created with its folder, readable by its owner only.
        clock: wall clock in seconds, which the processes of a host share.
    """

    writes_store = False
    service = "flights"

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._wakeups = WakeupHub(poll_s=_POLL_S)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._close)

    async def acquire(self, key: str, token: str, *, ttl_s: float, waited_s: float) -> Lease | LeaseHeld:
        """Acquire the lease, unless another process holds it or a generation failed in the last `waited_s`."""
        return await self._in_thread(lambda db: self._acquire(db, (key, token), ttl_s, waited_s))

    async def renew(self, lease: Lease, *, ttl_s: float) -> bool:
        """Extend the lease to `ttl_s` from now, even if it has expired; return whether no higher fence was granted."""
        update = "UPDATE leases SET token = ?, until_s = ?, life_s = ? WHERE key = ? AND fence = ?"
        until_s = self._clock() + ttl_s
        return await self._in_thread(
            lambda db: db.execute(update, (lease.token, until_s, ttl_s, lease.key, lease.fence)).rowcount == 1
        )

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Store the value for `fetch`, for a minute, unless a higher fence was granted."""
        del ttl_s
        made_s = self._clock()
        update = "UPDATE leases SET value = ?, made_s = ? WHERE key = ? AND fence = ?"
        return await self._in_thread(
            lambda db: db.execute(update, (value, made_s, lease.key, lease.fence)).rowcount == 1
        )

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Release the lease and leave `failure` for the waiters, which see it within 50 ms."""
        now_s = self._clock()
        update = "UPDATE leases SET token = NULL, until_s = ?, failure = ?, failed_s = ? WHERE key = ? AND token = ?"
        row = (now_s, failure, now_s, lease.key, lease.token)
        await self._in_thread(lambda db: _write(db, update, [row]))
        self._wakeups.notify(lease.key)

    async def fetch(self, key: str, *, within_s: float) -> bytes | None:
        """Return the value that was committed in the last `within_s` seconds, at most a minute ago.

        Older values are not returned, because the caller's own cache may have invalidated them since.
        """
        query = "SELECT value FROM leases WHERE key = ? AND made_s >= ?"
        oldest_s = self._clock() - min(within_s, _VALUE_TTL_S)
        found = await self._in_thread(lambda db: db.execute(query, (key, oldest_s)).fetchone())
        return None if found is None else found[0]

    async def append(self, key: str, events: Sequence[Event]) -> None:
        """Publish progress events to followers of `key`; events of a lower fence than the newest are dropped."""
        now_s = self._clock()
        rows = [(key, event.fence, event.number, now_s, event.data, key, event.fence) for event in events]
        insert = (
            "INSERT OR IGNORE INTO events SELECT ?, ?, ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM leases WHERE key = ? AND fence > ?)"
        )
        await self._in_thread(lambda db: _write(db, insert, rows))
        self._wakeups.notify(key)

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return up to 200 events after that fence and number, in order."""
        query = (
            "SELECT fence, number, data FROM events WHERE key = ? AND (fence, number) > (?, ?) AND at_s > ? "
            "ORDER BY fence, number LIMIT ?"
        )
        oldest_s = self._clock() - _EVENTS_TTL_S
        rows = await self._in_thread(lambda db: db.execute(query, (key, *after, oldest_s, _PAGE)).fetchall())
        return [Event(*row) for row in rows]

    def listen(self, key: str) -> AbstractContextManager[WaitForChange]:
        """Yield a function that waits for the next change of `key`, at most 50 ms."""
        return self._wakeups.listen(key)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def locked() -> T:
            with self._lock:
                return work(self._open())

        return await asyncio.to_thread(locked)

    def _acquire(
        self, db: sqlite3.Connection, name: tuple[str, str], ttl_s: float, waited_s: float
    ) -> Lease | LeaseHeld:
        key, token = name
        held = self._held(db, key, waited_s)
        if held is not None:
            return held
        now_s = self._clock()
        with _write_transaction(db):
            # Checked again: another process may have acquired the lease before this one took the write lock.
            held = self._held(db, key, waited_s)
            if held is not None:
                return held
            found = db.execute("SELECT fence FROM leases WHERE key = ?", (key,)).fetchone()
            fence = max(int(now_s * 1_000_000), 0 if found is None else found[0] + 1)
            db.execute(
                "INSERT INTO leases (key, token, fence, until_s, life_s) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET token = excluded.token, fence = excluded.fence, "
                "until_s = excluded.until_s, life_s = excluded.life_s, failure = NULL, failed_s = NULL",
                (key, token, fence, now_s + ttl_s, ttl_s),
            )
            self._sweep(db, now_s)
            return Lease(key=key, token=token, fence=fence)

    def _held(self, db: sqlite3.Connection, key: str, waited_s: float) -> LeaseHeld | None:
        query = "SELECT until_s, life_s, failure, failed_s FROM leases WHERE key = ?"
        found = db.execute(query, (key,)).fetchone()
        if found is None:
            return None
        until_s, ttl_s, failure, failed_s = found
        now_s = self._clock()
        # A lease with more than its TTL left was written before the clock was set back.
        if 0 < until_s - now_s <= ttl_s:
            return LeaseHeld(remaining_s=until_s - now_s)
        if failure is not None and now_s - failed_s <= min(waited_s, _FAILURE_TTL_S):
            return LeaseHeld(failure=failure)
        return None

    def _sweep(self, db: sqlite3.Connection, now_s: float) -> None:
        """Delete expired rows; fences still rise without them, because they start from the time."""
        db.execute("UPDATE leases SET value = NULL, made_s = NULL WHERE made_s <= ?", (now_s - _VALUE_TTL_S,))
        db.execute("DELETE FROM leases WHERE until_s < ? AND made_s IS NULL", (now_s - _EVENTS_TTL_S,))
        db.execute("DELETE FROM events WHERE at_s <= ?", (now_s - _EVENTS_TTL_S,))

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                connection.executescript(_SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


@contextmanager
def _write_transaction(db: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE takes the file's write lock at the beginning.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _write(db: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    # Closed here: a cursor that is garbage-collected in the event loop's thread resets its statement, which another
    # thread may be executing at that moment.
    db.executemany(statement, rows).close()
