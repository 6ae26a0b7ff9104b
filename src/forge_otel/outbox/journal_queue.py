"""The asynchronous front of the chain: one thread writes it, one reads it, the event loop never touches a disk.

What comes in while the writer is busy is committed together, so that under load many callers share one commit.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Final

from forge_otel._internal.worker_thread import WorkerThread
from forge_otel._journal.index import Index
from forge_otel._journal.segments import DiskSegment, Segment, is_damage
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.codec import DamagedRecord, decode, encode
from forge_otel.outbox.dead_letters import DeadLetters
from forge_otel.outbox.segment_chain import DISK_TROUBLE, Draft, SegmentChain
from forge_otel.types import Record

__all__ = ["Batch", "JournalQueue", "QueuedRecord", "Stretch"]

_logger = getLogger(__name__)
_BATCH_RECORDS: Final = 500
_BATCH_BYTES: Final = 8 * 2**20

Job = Callable[[], None]


@dataclass(frozen=True, slots=True)
class QueuedRecord:
    """One waiting record; `record` is the fault where the stored bytes cannot be read."""

    seq: int
    body: bytes
    record: Record | DamagedRecord


@dataclass(frozen=True, slots=True)
class Batch:
    """The next records for a sink, all of one segment."""

    index: Index
    entries: list[QueuedRecord]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What waits for a sink in one file: the records after number `after`, up to number `last`."""

    path: Path
    after: int
    last: int
    batch: Batch
    """For `JournalQueue.settle`; holds no records."""


@dataclass(frozen=True, slots=True)
class _Write:
    record: Record
    at_s: float
    size_bytes: int
    stored: asyncio.Future[None] | None


class JournalQueue:
    """Keeps records until every sink has them.

    Args:
        ledger: where every change is booked.
        directory: folder of the journal; None keeps records in memory.
        max_bytes: size of all waiting records above which new ones are dropped.
        is_power_safe: flush each commit to the disk itself.
        on_stored: called on the event loop when there is something new to read.
        on_settled: called on the event loop when a sink needs less than before.
    """

    def __init__(
        self,
        ledger: DeliveryAccounting,
        *,
        directory: Path | None,
        max_bytes: int,
        is_power_safe: bool,
        on_stored: Callable[[], None],
        on_settled: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._chain = SegmentChain(ledger, directory=directory, max_bytes=max_bytes, is_power_safe=is_power_safe)
        self._dead_letters = DeadLetters(directory)
        self._on_stored = on_stored
        self._on_settled = on_settled
        self._unsaved: set[Segment] = set()
        self._writer: WorkerThread[_Write | Job] = WorkerThread("forge-outbox-writer", self._handle)
        self._reader: WorkerThread[Job] = WorkerThread("forge-outbox-reader", _run_all)

    @property
    def is_durable(self) -> bool:
        """Whether new records go to a disk that takes them."""
        return self._chain.is_durable

    async def open(self, *, timeout_s: float) -> bool:
        """Open the journal and adopt those of dead processes; return whether that was done in time."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        self._reader.start()
        return await self._in_writer(self._open, timeout_s=timeout_s)

    def put(self, record: Record, *, size_bytes: int, stored: asyncio.Future[None] | None) -> None:
        """Take a record that the ledger has booked; resolve `stored` when it survives the death of the process."""
        self._writer.put(_Write(record, time.time(), size_bytes, stored))

    async def read(self, sink: str, *, limit: int = _BATCH_RECORDS) -> Batch | None:
        """Return the next records for `sink`, or None when it has them all.

        Args:
            sink: its name.
            limit: at most so many.

        Raises:
            OSError: the journal cannot be read for now.
        """
        index = self._ledger.next_for(sink)
        segment = self._chain.find(index)
        if index is None or segment is None:
            return None
        found: asyncio.Future[list[QueuedRecord]] = self._loop.create_future()
        # Not beyond what the ledger has booked: it would count a record as delivered that it still counts as queued.
        self._reader.put(partial(self._read, segment, (index.cursor(sink), index.last_seq, limit), found))
        batch = Batch(index, await found)
        if not batch.entries:
            # The rows that the index knows are gone from the file: the ledger counts them as damaged.
            self.settle(sink, batch, index.last_seq, delivered=0)
        return batch

    def stretch(self, sink: str) -> Stretch | None:
        """Return what waits for `sink` in the oldest segment; None where nothing does, or not in a file."""
        index = self._ledger.next_for(sink)
        segment = self._chain.find(index)
        if index is None or not isinstance(segment, DiskSegment):
            return None
        return Stretch(segment.path, index.cursor(sink), index.last_seq, Batch(index, []))

    def settle(
        self, sink: str, batch: Batch, seq: int, *, delivered: int, dropped: Mapping[str, int] | None = None
    ) -> None:
        """Note that `sink` needs nothing up to number `seq` any more, and save that in the background."""
        self._ledger.settle(sink, batch.index, seq, delivered=delivered, dropped=dropped or {})
        segment = self._chain.find(batch.index)
        if segment is not None and segment not in self._unsaved:
            self._unsaved.add(segment)
            self._writer.put(partial(self._save, segment))
        self._on_settled()

    def bury(self, sink: str, entry: QueuedRecord, *, reason: str) -> None:
        """Put a record that `sink` will never take among the dead letters."""
        self._writer.put(partial(self._dead_letters.add, sink, entry.body, reason=reason))

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until everything taken so far is stored; return whether that was in time."""
        return await self._in_writer(lambda: None, timeout_s=timeout_s)

    async def close(self, *, timeout_s: float) -> bool:
        """Save, close and give up the journal; return whether that was in time."""
        self._reader.stop()
        is_closed = await self._in_writer(self._close, timeout_s=timeout_s)
        self._writer.stop()
        return is_closed

    async def _in_writer(self, job: Job, *, timeout_s: float) -> bool:
        done: asyncio.Future[None] = self._loop.create_future()
        self._writer.put(job)
        self._writer.put(partial(self._on_loop, _resolve, [done]))
        finished, _ = await asyncio.wait({done}, timeout=max(0.0, timeout_s))
        return bool(finished)

    def _on_loop(self, callback: Callable[..., None], *args: object) -> None:
        # The loop is closed already when a thread comes back from a disk that hung until after the end.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _announce(self, stored: list[asyncio.Future[None]]) -> None:
        _resolve(stored)
        self._on_stored()

    # On the writer thread

    def _open(self) -> None:
        self._chain.target()
        self._on_loop(self._announce, [])

    def _handle(self, batch: list[_Write | Job]) -> None:
        writes = [item for item in batch if isinstance(item, _Write)]
        if writes:
            self._store(writes)
        _run_all([item for item in batch if not isinstance(item, _Write)])

    def _store(self, writes: list[_Write]) -> None:
        drafts = [draft for write in writes if (draft := self._draft(write)) is not None]
        self._chain.append(drafts)
        self._on_loop(self._announce, [write.stored for write in writes if write.stored is not None])

    def _draft(self, write: _Write) -> Draft | None:
        try:
            return Draft(encode(write.record), write.at_s, write.size_bytes)
        except Exception:
            _logger.exception("the record of generation %s cannot be stored and is dropped", write.record.id)
            self._ledger.drop_queued("rejected", queued_bytes=write.size_bytes)
            return None

    def _save(self, segment: Segment) -> None:
        self._unsaved.discard(segment)
        self._chain.save(segment)

    def _close(self) -> None:
        self._chain.close()
        self._dead_letters.close()

    # On the reader thread

    def _read(self, segment: Segment, what: tuple[int, int, int], found: asyncio.Future[list[QueuedRecord]]) -> None:
        after, last, limit = what
        try:
            rows = segment.read(after, last, limit=limit, limit_bytes=_BATCH_BYTES)
        except DISK_TROUBLE as exc:
            if is_damage(exc):
                self._writer.put(partial(self._chain.set_aside, segment, exc))
            self._on_loop(_settle, found, None, OSError(f"the journal cannot be read: {exc}"))
            return
        self._on_loop(_settle, found, [QueuedRecord(seq, body, _decoded(body)) for seq, body in rows], None)


def _decoded(body: bytes) -> Record | DamagedRecord:
    try:
        return decode(body)
    except DamagedRecord as exc:
        return exc


def _run_all(jobs: list[Job]) -> None:
    for job in jobs:
        try:
            job()
        except Exception:
            _logger.exception("a job of the outbox failed")


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _settle(
    found: asyncio.Future[list[QueuedRecord]], entries: list[QueuedRecord] | None, exc: BaseException | None
) -> None:
    if found.done():
        return
    if exc is not None:
        found.set_exception(exc)
    else:
        found.set_result(entries or [])
