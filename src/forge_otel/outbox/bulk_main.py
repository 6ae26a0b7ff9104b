"""The process that brings a long backlog into PostgreSQL while its parent serves requests.

It reads the journal and writes the database, and decides nothing: the parent says which stretch of which file, hears of
each batch that is committed, and books it. So it may die at any moment: what the parent has not heard of is delivered
again, and a generation that is stored already changes nothing. It dies with its parent, and uses processor time that
nobody else wants. Both sides send JSON, a message a line:

========= ================================== ==========================================================
from      message                            meaning
========= ================================== ==========================================================
parent    `path`, `after`, `last`      deliver these records of this file
drainer   `seq`, `count`                 so many records are stored, the last one with this number
drainer   `refused`                        the records up to this number are better tried one by one
drainer   `done`                           the stretch is delivered, as far as the file has it
drainer   `failed`                         the database does not take any: what it said. The process ends
========= ================================== ==========================================================

Where it ends without a word, as it does when nothing moves for a while, that says nothing about the database.
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
from forge_otel.outbox.codec import DamagedRecord, skim

with needs("postgres"):
    import asyncpg  # type: ignore[import-untyped]

__all__ = ["main"]

_BATCH_RECORDS: Final = 2000
_BATCH_BYTES: Final = 8 * 2**20
# A refused batch is cut down to this before the parent gets it.
_FEW_RECORDS: Final = 125
_LOOK_AT_PARENT_S: Final = 1.0
# Either the server is silent or this process gets no processor time; its parent, which does, finds out.
_SILENCE_S: Final = 15.0

Job = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Read:
    """Records up to number `last`, ready to be stored, or why they cannot be."""

    last: int
    count: int
    batch: MappedRows | Exception


class _Journal:
    """The records of one stretch, through a connection that cannot write."""

    def __init__(self, path: str, last: int) -> None:
        self._last = last
        self._connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, check_same_thread=False)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def read(self, after: int, limit: int) -> _Read | None:
        """Return the next records, None after the last one."""
        bodies: list[bytes] = []
        last = size_bytes = 0
        statement = "SELECT seq, body FROM record WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        with closing(self._connection.execute(statement, (after, self._last, limit))) as rows:
            for last, body in rows:  # noqa: B007 - the last one
                bodies.append(body)
                size_bytes += len(body)
                if size_bytes >= _BATCH_BYTES:
                    break
        return _Read(last, len(bodies), _rowed(bodies)) if bodies else None


class _Drainer:
    def __init__(self, driver: Any, parent: int) -> None:
        self._driver = driver
        self._parent = parent

    async def serve(self, jobs: "asyncio.Queue[Job]") -> None:
        """Work until the parent is gone."""
        while True:
            with suppress(TimeoutError):
                job = await asyncio.wait_for(jobs.get(), _LOOK_AT_PARENT_S)
                with closing(_Journal(job["path"], job["last"])) as journal:
                    await self._work(journal, job["after"])
            self._look_at_parent()

    async def _work(self, journal: _Journal, after: int) -> None:
        size = _BATCH_RECORDS
        ahead = _start(journal, after, size)
        while (found := await ahead) is not None:
            size = min(_BATCH_RECORDS, size * 2)
            ahead = _start(journal, found.last, size)
            if await self._is_stored(found.batch):
                after = found.last
                self._say(seq=found.last, count=found.count)
                continue
            await ahead
            if found.count <= _FEW_RECORDS:
                self._say(refused=found.last)
                return
            size = max(_FEW_RECORDS, found.count // 8)
            ahead = _start(journal, after, size)
        self._say(done=True)

    async def _is_stored(self, batch: MappedRows | Exception) -> bool:
        if isinstance(batch, Exception):
            return False
        storing = asyncio.ensure_future(store(self._driver, batch, yields_often=False))
        done, _ = await asyncio.wait({storing}, timeout=_SILENCE_S)
        if not done:
            os._exit(0)
        error = storing.exception()
        if error is not None and not (isinstance(error, Exception) and is_data_error(error)):
            raise error
        return error is None

    def _say(self, **message: Any) -> None:
        self._look_at_parent()
        say(**message)

    def _look_at_parent(self) -> None:
        # The pipes do not tell where somebody forked the parent: then they are open for as long as that child lives.
        if os.getppid() != self._parent:
            os._exit(0)


def main(options: Mapping[str, Any]) -> None:
    """Serve the parent on the other end of the standard streams; does not return.

    Args:
        options: `connect`: what `asyncpg.connect` is given; `parent`: its process.
    """
    # The terminal sends it to everybody; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stand_back()
    # There is little garbage that counting does not find, and a walk through a batch costs as much as decoding it.
    gc.disable()
    try:
        asyncio.run(_run(options))
    except TimeoutError:
        pass  # as after `_SILENCE_S`
    except BaseException as exc:  # whatever it is, the parent has to hear of it
        with suppress(OSError):
            say(failed=f"{type(exc).__name__}: {exc}"[:500])
    os._exit(0)


def say(**message: Any) -> None:
    """Send a message to the parent."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


async def _run(options: Mapping[str, Any]) -> None:
    jobs: asyncio.Queue[Job] = asyncio.Queue()
    threading.Thread(target=_listen, args=(asyncio.get_running_loop(), jobs), daemon=True).start()
    driver = await asyncpg.connect(**options["connect"])
    await _Drainer(driver, options["parent"]).serve(jobs)


def _listen(loop: asyncio.AbstractEventLoop, jobs: "asyncio.Queue[Job]") -> None:
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(jobs.put_nowait, json.loads(line))
    os._exit(0)


def _start(journal: _Journal, after: int, limit: int) -> "asyncio.Task[_Read | None]":
    return asyncio.create_task(asyncio.to_thread(journal.read, after, limit))


def _rowed(bodies: list[bytes]) -> MappedRows | Exception:
    try:
        return MappedRows.of(skim(body) for body in bodies)
    except (DamagedRecord, ValueError, OverflowError) as exc:
        return exc


def _stand_back() -> None:
    """Run only while nobody else wants the processor; where there is no such thing, be nice."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    os.nice(10)
