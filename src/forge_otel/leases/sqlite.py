"""Leases in an SQLite file, for the workers of one host that have no Redis.

Of a lease and its fence the file knows what Redis would, and it hands over the answers, too, because the workers'
memory caches are their own. Chosen before a lock on a file, because such a lock is kept for as long as its holder is
paused, and knows no fence. Nobody is woken by a file; whoever waits looks again every 50 ms, which costs a read.

Nothing here needs to outlive a crash of the machine, so the file is not forced to the disk.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from forge_otel.leases.notify import WakeupHub
from forge_otel.types import Event, Lease, LeaseHeld, Wakeup

__all__ = ["SQLiteLeases"]

T = TypeVar("T")

_POLL_S: Final = 0.05
_BUSY_S: Final = 0.1
_FAILURE_LIFE_S: Final = 30.0
_VALUE_LIFE_S: Final = 60.0
_EVENT_LIFE_S: Final = 600.0
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
        path: of the file, on a local disk; made with its folder, for its owner alone.
        clock: wall clock, seconds, the same for all processes of the host.
    """

    is_store = False
    service = "flights"

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._bells = WakeupHub(every_s=_POLL_S)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._close)

    async def claim(self, key: str, token: str, *, life_s: float, waited_s: float) -> Lease | LeaseHeld:
        """Take the lease if nobody holds it and no generation failed in the last `waited_s`."""
        return await self._in_thread(lambda db: self._claim(db, (key, token), life_s, waited_s))

    async def renew(self, lease: Lease, *, life_s: float) -> bool:
        """Make the lease last `life_s` from now, also if it had ended; whether it still is the newest."""
        changed = "UPDATE leases SET token = ?, until_s = ?, life_s = ? WHERE key = ? AND fence = ?"
        until_s = self._clock() + life_s
        return await self._in_thread(
            lambda db: db.execute(changed, (lease.token, until_s, life_s, lease.key, lease.fence)).rowcount == 1
        )

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Put the value where `fetch` finds it for a minute, unless a higher fence was given."""
        del ttl_s
        made_s = self._clock()
        changed = "UPDATE leases SET value = ?, made_s = ? WHERE key = ? AND fence = ?"
        return await self._in_thread(
            lambda db: db.execute(changed, (value, made_s, lease.key, lease.fence)).rowcount == 1
        )

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Give the lease back; those who wait see it within 50 ms."""
        now_s = self._clock()
        changed = "UPDATE leases SET token = NULL, until_s = ?, failure = ?, failed_s = ? WHERE key = ? AND token = ?"
        row = (now_s, failure, now_s, lease.key, lease.token)
        await self._in_thread(lambda db: _write(db, changed, [row]))
        self._bells.ring(lease.key)

    async def fetch(self, key: str, *, within_s: float) -> bytes | None:
        """Return what was committed in the last `within_s`, at most a minute ago.

        No more than that: what is older may have been invalidated in the cache of whoever asks.
        """
        query = "SELECT value FROM leases WHERE key = ? AND made_s >= ?"
        oldest_s = self._clock() - min(within_s, _VALUE_LIFE_S)
        found = await self._in_thread(lambda db: db.execute(query, (key, oldest_s)).fetchone())
        return None if found is None else found[0]

    async def append(self, key: str, events: Sequence[Event]) -> None:
        """Add to what followers of `key` see; events of a lower fence than the newest are dropped."""
        now_s = self._clock()
        rows = [(key, event.fence, event.number, now_s, event.data, key, event.fence) for event in events]
        added = (
            "INSERT OR IGNORE INTO events SELECT ?, ?, ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM leases WHERE key = ? AND fence > ?)"
        )
        await self._in_thread(lambda db: _write(db, added, rows))
        self._bells.ring(key)

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return up to 200 events after that fence and number, in order."""
        query = (
            "SELECT fence, number, data FROM events WHERE key = ? AND (fence, number) > (?, ?) AND at_s > ? "
            "ORDER BY fence, number LIMIT ?"
        )
        oldest_s = self._clock() - _EVENT_LIFE_S
        rows = await self._in_thread(lambda db: db.execute(query, (key, *after, oldest_s, _PAGE)).fetchall())
        return [Event(*row) for row in rows]

    def listen(self, key: str) -> AbstractContextManager[Wakeup]:
        """Have a bell ring for `key` inside the block."""
        return self._bells.listen(key)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def locked() -> T:
            with self._lock:
                return work(self._open())

        return await asyncio.to_thread(locked)

    def _claim(
        self, db: sqlite3.Connection, name: tuple[str, str], life_s: float, waited_s: float
    ) -> Lease | LeaseHeld:
        key, token = name
        held = self._why_not(db, key, waited_s)
        if held is not None:
            return held
        now_s = self._clock()
        with _written(db):
            # Between the look and the lock somebody may have been faster.
            held = self._why_not(db, key, waited_s)
            if held is not None:
                return held
            found = db.execute("SELECT fence FROM leases WHERE key = ?", (key,)).fetchone()
            fence = max(int(now_s * 1_000_000), 0 if found is None else found[0] + 1)
            db.execute(
                "INSERT INTO leases (key, token, fence, until_s, life_s) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET token = excluded.token, fence = excluded.fence, "
                "until_s = excluded.until_s, life_s = excluded.life_s, failure = NULL, failed_s = NULL",
                (key, token, fence, now_s + life_s, life_s),
            )
            self._sweep(db, now_s)
            return Lease(key=key, token=token, fence=fence)

    def _why_not(self, db: sqlite3.Connection, key: str, waited_s: float) -> LeaseHeld | None:
        query = "SELECT until_s, life_s, failure, failed_s FROM leases WHERE key = ?"
        found = db.execute(query, (key,)).fetchone()
        if found is None:
            return None
        until_s, life_s, failure, failed_s = found
        now_s = self._clock()
        # More than its own life can only be left after the clock was set back.
        if 0 < until_s - now_s <= life_s:
            return LeaseHeld(rest_s=until_s - now_s)
        if failure is not None and now_s - failed_s <= min(waited_s, _FAILURE_LIFE_S):
            return LeaseHeld(failure=failure)
        return None

    def _sweep(self, db: sqlite3.Connection, now_s: float) -> None:
        """Forget what is over, so that the file does not grow; fences rise all the same, they begin with the time."""
        db.execute("UPDATE leases SET value = NULL, made_s = NULL WHERE made_s <= ?", (now_s - _VALUE_LIFE_S,))
        db.execute("DELETE FROM leases WHERE until_s < ? AND made_s IS NULL", (now_s - _EVENT_LIFE_S,))
        db.execute("DELETE FROM events WHERE at_s <= ?", (now_s - _EVENT_LIFE_S,))

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


class _written:  # noqa: N801 - used as a verb
    """One transaction that holds the file's write lock from its beginning."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _write(db: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run a statement for each row, and be done with it here.

    A cursor that outlived its turn would reset its statement when it is collected in the event loop's thread, in the
    middle of what the next turn does with the same statement.
    """
    db.executemany(statement, rows).close()
