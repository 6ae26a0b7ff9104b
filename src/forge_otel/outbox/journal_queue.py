"""Asynchronous queue on the segment chain: a writer thread and a reader thread keep disk access off the event loop.

Records that arrive while the writer is busy share its next commit.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Final

from forge_otel._internal.worker_thread import WorkerThread, run_in_daemon_thread
from forge_otel._journal.index import SegmentIndex
from forge_otel._journal.segments import DiskSegment, Segment, is_damage
from forge_otel.names.deliveries import MEMORY_LABEL
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.codec import DamagedRecord, decode, encode
from forge_otel.outbox.dead_letters import DeadLetters
from forge_otel.outbox.segment_chain import DISK_ERRORS, EncodedRecord, SegmentChain
from forge_otel.types import Record

__all__ = ["JournalQueue", "QueuedBatch", "QueuedRecord", "QueuedWrite", "SegmentRange"]

_logger = getLogger(__name__)
_BATCH_RECORDS: Final = 500
_BATCH_BYTES: Final = 8 * 2**20
_PATIENCE_S: Final = 1.0

Job = Callable[[], None]


@dataclass(frozen=True, slots=True)
class QueuedRecord:
    """One waiting record; `record` is the error if the stored bytes cannot be decoded."""

    seq: int
    body: bytes
    record: Record | DamagedRecord


@dataclass(frozen=True, slots=True)
class QueuedBatch:
    """Consecutive records for a sink, all in one segment."""

    index: SegmentIndex
    entries: list[QueuedRecord]


@dataclass(frozen=True, slots=True)
class SegmentRange:
    """Records that wait for a sink in one file: those after number `after`, up to number `last`."""

    path: Path
    after: int
    last: int
    batch: QueuedBatch
    """Argument for `JournalQueue.acknowledge`; it holds no records."""


@dataclass(slots=True, eq=False)
class QueuedWrite:
    """A record on its way to the journal.

    Args:
        record: the record.
        size_bytes: the size with which it was counted.
        stored: resolved when the record is in a segment or was dropped; None if no caller waits.
        is_durable: whether the record is in a segment that survives the process.
        is_answered: whether its caller got the answer before.
    """

    record: Record
    size_bytes: int
    stored: asyncio.Future[None] | None
    is_durable: bool = False
    is_answered: bool = False
    at_s: float = field(default_factory=time.time)
    put_s: float = field(default_factory=time.monotonic)


class JournalQueue:
    """Queue of the records that some sink still needs.

    Args:
        accounting: counts every change.
        directory: folder of the journal; None keeps records in memory.
        max_bytes: size of all waiting records above which new ones are dropped.
        is_power_safe: flush each commit to the disk.
        on_stored: called on the event loop after new records are stored.
        on_acknowledged: called on the event loop after a sink has acknowledged records.
    """

    def __init__(
        self,
        accounting: DeliveryAccounting,
        *,
        directory: Path | None,
        max_bytes: int,
        is_power_safe: bool,
        on_stored: Callable[[], None],
        on_acknowledged: Callable[[], None],
    ) -> None:
        self._accounting = accounting
        self._chain = SegmentChain(accounting, directory=directory, max_bytes=max_bytes, is_power_safe=is_power_safe)
        self._dead_letters = DeadLetters(directory)
        self._on_stored = on_stored
        self._on_acknowledged = on_acknowledged
        self._unsaved: set[Segment] = set()
        # Writes that are in no segment yet: appended by the event loop, removed by the writer, in the same order.
        self._unstored: deque[QueuedWrite] = deque()
        self._busy_since_s: float | None = None
        self._settling = threading.Lock()
        self._writer: WorkerThread[QueuedWrite | Job] = WorkerThread("forge-outbox-writer", self._handle)
        self._reader: WorkerThread[Job] = WorkerThread("forge-outbox-reader", _run_all)

    @property
    def is_durable(self) -> bool:
        """Return whether new records are written to the disk, and in time."""
        return self._chain.is_durable and self.patience_left_s > 0

    @property
    def patience_left_s(self) -> float:
        """Seconds until the journal counts as hanging, 0 or less if it does.

        Measured from the oldest record that is in no segment yet, and from the start of the access to the disk that is
        going on: an error may never come.
        """
        now_s = time.monotonic()
        since_s = self._busy_since_s or now_s
        # The writer may remove the last one at any moment.
        with suppress(IndexError):
            since_s = min(since_s, self._unstored[0].put_s)
        return _PATIENCE_S - (now_s - since_s)

    @property
    def is_stuck(self) -> bool:
        """Return whether one access to the disk takes too long, rather than many records waiting for their turn."""
        busy_since_s = self._busy_since_s
        return busy_since_s is not None and time.monotonic() - busy_since_s >= _PATIENCE_S

    async def open(self, *, timeout_s: float) -> bool:
        """Open the journal, adopt those of dead processes, and return whether both were done within `timeout_s`."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        self._reader.start()
        return await self._in_writer(self._open, timeout_s=timeout_s)

    def put(self, write: QueuedWrite) -> None:
        """Queue a record, already counted by the accounting, for the writer."""
        self._unstored.append(write)
        self._writer.put(write)

    def answer_early(self, write: QueuedWrite) -> bool:
        """Mark a record as answered before it is in the journal; return False if it is in the journal already."""
        with self._settling:
            write.is_answered = not write.is_durable
            return write.is_answered

    def probe(self) -> None:
        """Let the writer find out whether the disk works again."""
        self._writer.put(self._open)

    def volatile(self) -> list[SegmentIndex]:
        """Return the indexes of the segments that die with this process."""
        return self._chain.volatile()

    def release_callers(self) -> None:
        """Let every caller go on whose record is in no segment yet."""
        _resolve([write.stored for write in tuple(self._unstored) if write.stored is not None])

    async def read(self, sink: str, *, limit: int = _BATCH_RECORDS) -> QueuedBatch | None:
        """Return the next records for `sink`, or None if none waits.

        Args:
            sink: its name.
            limit: maximum number of records.

        Raises:
            OSError: the journal cannot be read at present.
        """
        index = self._accounting.next_segment(sink)
        segment = self._chain.find(index)
        if index is None or segment is None:
            return None
        found: asyncio.Future[list[QueuedRecord]] = self._loop.create_future()
        # Up to the last counted record: the writer may have stored more, which the accounting counts a moment later.
        self._reader.put(partial(self._read, segment, (index.cursor(sink), index.last_seq, limit), found))
        batch = QueuedBatch(index, await found)
        if not batch.entries:
            # The file lacks rows that are in the index; the accounting counts them as damaged.
            self.acknowledge(sink, batch, index.last_seq, delivered=0)
        return batch

    def segment_range(self, sink: str) -> SegmentRange | None:
        """Return the range that waits for `sink` in the oldest segment; None if none waits, or only in memory."""
        index = self._accounting.next_segment(sink)
        segment = self._chain.find(index)
        if index is None or not isinstance(segment, DiskSegment):
            return None
        return SegmentRange(segment.path, index.cursor(sink), index.last_seq, QueuedBatch(index, []))

    def acknowledge(
        self, sink: str, batch: QueuedBatch, seq: int, *, delivered: int, dropped: Mapping[str, int] | None = None
    ) -> None:
        """Move the cursor of `sink` to `seq`, and save the cursor in the background.

        Args:
            sink: its name.
            batch: the batch that was delivered.
            seq: sequence number of the last record that the sink no longer needs.
            delivered: number of records that the sink stored.
            dropped: reason to number of records that the sink will never store.
        """
        self._accounting.acknowledge(sink, batch.index, seq, delivered=delivered, dropped=dropped or {})
        segment = self._chain.find(batch.index)
        if segment is not None and segment not in self._unsaved:
            self._unsaved.add(segment)
            self._writer.put(partial(self._save, segment))
        self._on_acknowledged()

    async def dead_letter(self, sink: str, entry: QueuedRecord, *, reason: str) -> None:
        """Add a record that `sink` rejected to the dead letters, before it is acknowledged."""
        # Not on the writer thread: a dead-letter file that another process locks would hold up every new record.
        add = partial(self._dead_letters.add, sink, entry.body, reason=reason)
        await run_in_daemon_thread(add, name="forge-outbox-dead-letters")

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until all records so far are stored; return whether they were within `timeout_s`."""
        return await self._in_writer(lambda: None, timeout_s=timeout_s)

    async def close(self, *, timeout_s: float) -> bool:
        """Save the cursors and close the journal; return whether that was done within `timeout_s`."""
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
        # The loop may be closed by the time a disk that hung lets its thread go on.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _announce(self, stored: list[asyncio.Future[None]]) -> None:
        _resolve(stored)
        self._on_stored()

    # On the writer thread

    def _open(self) -> None:
        self._chain.writable_segment()
        self._on_loop(self._announce, [])

    def _handle(self, batch: list[QueuedWrite | Job]) -> None:
        writes = [item for item in batch if isinstance(item, QueuedWrite)]
        if writes:
            self._timed(partial(self._store, writes))
        for item in batch:
            if not isinstance(item, QueuedWrite):
                self._timed(item)

    def _timed(self, job: Job) -> None:
        self._busy_since_s = time.monotonic()
        _run_all([job])
        self._busy_since_s = None

    def _store(self, writes: list[QueuedWrite]) -> None:
        encoded = [record for write in writes if (record := self._encoded(write)) is not None]
        try:
            self._chain.append(encoded)
        # BaseException: records that stay counted as waiting would be in no segment.
        except BaseException:
            _logger.exception("%d records cannot be stored and are dropped", len(encoded))
            for record in encoded:
                self._accounting.drop_unstored("disk", queued_bytes=record.queued_bytes)
        for _ in writes:
            self._unstored.popleft()
        self._on_loop(self._announce, [write.stored for write in writes if write.stored is not None])

    def _encoded(self, write: QueuedWrite) -> EncodedRecord | None:
        try:
            body = encode(write.record)
        # BaseException: a record that makes an extension panic must not cost the rest of its batch.
        except BaseException:
            _logger.exception("record of generation %s cannot be encoded and is dropped", write.record.id)
            self._accounting.drop_unstored("rejected", queued_bytes=write.size_bytes)
            return None
        return EncodedRecord(body, write.at_s, write.size_bytes, settle=partial(self._settle, write))

    def _settle(self, write: QueuedWrite, is_durable: bool) -> bytes | None:
        with self._settling:
            write.is_durable = is_durable
            is_late = write.is_answered
        if is_durable and not is_late:
            return None
        labels = dict.fromkeys([*write.record.degraded, MEMORY_LABEL])
        return encode(replace(write.record, degraded=tuple(labels)))

    def _save(self, segment: Segment) -> None:
        self._unsaved.discard(segment)
        self._chain.save(segment)

    def _close(self) -> None:
        self._chain.close()
        self._dead_letters.close()

    # On the reader thread

    def _read(self, segment: Segment, span: tuple[int, int, int], found: asyncio.Future[list[QueuedRecord]]) -> None:
        after, last, limit = span
        try:
            rows = segment.read(after, last, limit=limit, limit_bytes=_BATCH_BYTES)
        except DISK_ERRORS as exc:
            if is_damage(exc):
                self._writer.put(partial(self._chain.set_aside, segment, exc))
            self._on_loop(_complete, found, None, OSError(f"the journal cannot be read: {exc}"))
            return
        self._on_loop(_complete, found, [QueuedRecord(seq, body, _decoded(body)) for seq, body in rows], None)


def _decoded(body: bytes) -> Record | DamagedRecord:
    try:
        return decode(body)
    except DamagedRecord as exc:
        return exc


def _run_all(jobs: list[Job]) -> None:
    for job in jobs:
        try:
            job()
        # BaseException: a Rust extension's PanicException is one, and must not cost the jobs behind it.
        except BaseException:
            _logger.exception("outbox job failed")


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _complete(
    found: asyncio.Future[list[QueuedRecord]], entries: list[QueuedRecord] | None, exc: BaseException | None
) -> None:
    if found.done():
        return
    if exc is not None:
        found.set_exception(exc)
    else:
        found.set_result(entries or [])
