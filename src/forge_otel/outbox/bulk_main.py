"""Process that bulk-loads a backlog into PostgreSQL while its parent serves requests.

The parent sends ranges of journal files and accounts each batch that this process reports as committed. Either may die
at any moment: a batch without a report is delivered again, and stored records are not stored twice. Both sides send
JSON, one message a line:

======= ====================== =================================================================
sender  message                meaning
======= ====================== =================================================================
parent  `path, after, last`    store the records of this file after number `after`, up to `last`
process `seq, count`           `count` records are stored, the last one has number `seq`
process `rejected`             the database rejects a record in the batch that ends at this number
process `done`                 all records of the range are stored
process `failed`               the database fails, with its error; the process ends
======= ====================== =================================================================

An end without a message says nothing about the database.
"""

import asyncio
import gc
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from forge_otel.database.errors import is_data_error
from forge_otel.database.writing.postgres import store
from forge_otel.database.writing.row_mapping import MappedRows
from forge_otel.errors import needs
from forge_otel.outbox.codec import DamagedRecord, decode_without_artifacts

with needs("postgres"):
    import asyncpg  # type: ignore[import-untyped]

__all__ = ["main"]

_BATCH_RECORDS: Final = 2000
_BATCH_BYTES: Final = 8 * 2**20
# A rejected batch is split down to this size before the parent delivers it.
_FEW_RECORDS: Final = 125
_PARENT_CHECK_S: Final = 1.0
# The server does not respond, or this process gets no CPU time; the ordinary delivery of the parent finds out which.
_STORE_TIMEOUT_S: Final = 15.0

Request = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _MappedBatch:
    """Rows of the records up to number `last`, or the error of their mapping."""

    last: int
    count: int
    rows: MappedRows | Exception


class _JournalReader:
    """Read-only access to the records of one range."""

    def __init__(self, path: str, last: int) -> None:
        self._last = last
        self._connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, check_same_thread=False)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def read(self, after: int, limit: int) -> _MappedBatch | None:
        """Return the next rows, None after the last record."""
        bodies: list[bytes] = []
        last = size_bytes = 0
        statement = "SELECT seq, body FROM record WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        with closing(self._connection.execute(statement, (after, self._last, limit))) as rows:
            for last, body in rows:  # noqa: B007 - the last one
                bodies.append(body)
                size_bytes += len(body)
                if size_bytes >= _BATCH_BYTES:
                    break
        return _MappedBatch(last, len(bodies), _mapped(bodies)) if bodies else None


class _Loader:
    """Stores ranges one after the other.

    Args:
        driver: a connection of asyncpg.
        parent: process id of the parent.
    """

    def __init__(self, driver: Any, parent: int) -> None:
        self._driver = driver
        self._parent = parent

    async def serve(self, requests: "asyncio.Queue[Request]") -> None:
        """Load ranges until the parent dies."""
        while True:
            with suppress(TimeoutError):
                request = await asyncio.wait_for(requests.get(), _PARENT_CHECK_S)
                with closing(_JournalReader(request["path"], request["last"])) as journal:
                    await self._load(journal, request["after"])
            self._exit_without_parent()

    async def _load(self, journal: _JournalReader, after: int) -> None:
        size = _BATCH_RECORDS
        ahead = _start(journal, after, size)
        while (found := await ahead) is not None:
            size = min(_BATCH_RECORDS, size * 2)
            ahead = _start(journal, found.last, size)
            if await self._is_stored(found.rows):
                after = found.last
                self._say(seq=found.last, count=found.count)
                continue
            await ahead
            if found.count <= _FEW_RECORDS:
                self._say(rejected=found.last)
                return
            size = max(_FEW_RECORDS, found.count // 8)
            ahead = _start(journal, after, size)
        self._say(done=True)

    async def _is_stored(self, rows: MappedRows | Exception) -> bool:
        if isinstance(rows, Exception):
            return False
        storing = asyncio.ensure_future(store(self._driver, rows, yields_often=False))
        done, _ = await asyncio.wait({storing}, timeout=_STORE_TIMEOUT_S)
        if not done:
            os._exit(0)
        error = storing.exception()
        if error is not None and not (isinstance(error, Exception) and is_data_error(error)):
            raise error
        return error is None

    def _say(self, **message: Any) -> None:
        self._exit_without_parent()
        say(**message)

    def _exit_without_parent(self) -> None:
        # The end of the pipe is not enough: a forked child of the parent keeps it open.
        if os.getppid() != self._parent:
            os._exit(0)


def main(options: Mapping[str, Any]) -> None:
    """Serve the parent on the standard streams; this function does not return.

    Args:
        options: `connect` has the keyword arguments of `asyncpg.connect`, `parent` the parent's process id.
    """
    # Ctrl-C reaches every process of the terminal; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _lower_priority()
    # Records have no reference cycles, and a collection costs as much as decoding a batch.
    gc.disable()
    try:
        asyncio.run(_run(options))
    except TimeoutError:
        # The same end as after `_STORE_TIMEOUT_S`.
        pass
    except BaseException as exc:  # the parent must receive every error
        with suppress(OSError):
            say(failed=f"{type(exc).__name__}: {exc}"[:500])
    os._exit(0)


def say(**message: Any) -> None:
    """Send a message to the parent."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


async def _run(options: Mapping[str, Any]) -> None:
    requests: asyncio.Queue[Request] = asyncio.Queue()
    threading.Thread(target=_listen, args=(asyncio.get_running_loop(), requests), daemon=True).start()
    driver = await asyncpg.connect(**options["connect"])
    await _Loader(driver, options["parent"]).serve(requests)


def _listen(loop: asyncio.AbstractEventLoop, requests: "asyncio.Queue[Request]") -> None:
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(requests.put_nowait, json.loads(line))
    os._exit(0)


def _start(journal: _JournalReader, after: int, limit: int) -> "asyncio.Task[_MappedBatch | None]":
    return asyncio.create_task(asyncio.to_thread(journal.read, after, limit))


def _mapped(bodies: list[bytes]) -> MappedRows | Exception:
    try:
        return MappedRows.of(decode_without_artifacts(body) for body in bodies)
    except (DamagedRecord, ValueError, OverflowError) as exc:
        return exc


def _lower_priority() -> None:
    """Run only on idle CPU time (`SCHED_IDLE`), or with a low priority on systems without it."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    os.nice(10)
