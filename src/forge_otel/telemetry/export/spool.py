"""Disk spool of encoded span batches: at-least-once delivery across crashes.

A batch is stored before it is sent and deleted after the server accepted it. A crash in between sends it twice, under
the same span ids. New batches above `max_bytes` are dropped (`spool_full`), batches older than `max_age_s` as well
(`too_old`). Without a usable disk, batches wait in memory.
"""

import logging
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from forge_otel._journal.adoption import adopt
from forge_otel._journal.segments import DiskSegment, MemorySegment, Segment, is_damage
from forge_otel.telemetry.export.accounting import SpanAccounting

__all__ = ["Batch", "PendingBatch", "Spool", "SpoolOptions"]

_logger = logging.getLogger(__name__)

_READER: Final = "export"
# Magic and span count, in front of each body.
_FRAME: Final = struct.Struct(">4sI")
_MAGIC: Final = b"FGS1"
_READ_BYTES: Final = 4 * 2**20
# An emptied file of this size is deleted: SQLite does not return its pages to the file system.
_MAX_REUSED_BYTES: Final = 16 * 2**20
_RETRY_DISK_S: Final = 5.0
_FORK_TIMEOUT_S: Final = 1.0
# Adopting a large spool may take a second.
_STALL_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolOptions:
    """Location and limits of a spool.

    Args:
        directory: shared by the processes of one service; each has its own file in it, readable by its owner only.
            None keeps batches in memory.
        max_bytes: limit of the stored (compressed) batches.
        max_age_s: age in seconds above which a batch is dropped.
    """

    directory: Path | None = None
    max_bytes: int = 256 * 2**20
    max_age_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One encoded batch.

    Args:
        body: request body.
        span_count: number of spans in it.
        created_s: Unix time of its creation.
    """

    body: bytes = field(repr=False)
    span_count: int
    created_s: float = field(default_factory=time.time)


class _SpoolSegment:
    """A journal segment with the number of spans in it."""

    def __init__(self, journal: Segment) -> None:
        self.journal = journal
        self.span_count = 0
        self.written_bytes = 0

    @property
    def is_on_disk(self) -> bool:
        """Return whether the segment survives the process."""
        return isinstance(self.journal, DiskSegment)

    def append(self, batches: Sequence[Batch]) -> None:
        """Store all batches or none."""
        bodies = [(batch.created_s, _FRAME.pack(_MAGIC, batch.span_count) + batch.body) for batch in batches]
        self.journal.index.extend(self.journal.append(bodies))
        self.span_count += sum(batch.span_count for batch in batches)
        self.written_bytes += sum(len(body) for _, body in bodies)

    def head(self) -> "PendingBatch | None":
        """Return the oldest batch, None if there is none."""
        index = self.journal.index
        created_s = index.oldest_at_s(_READER)
        if created_s is None:
            return None
        # At least one record is returned, also above `limit_bytes`.
        rows = self.journal.read(index.cursor(_READER), index.last_seq, limit=1, limit_bytes=1)
        if not rows:
            # The plain class counts as damage, see `is_damage`.
            raise sqlite3.DatabaseError("a stored batch is missing from the file")
        seq, body = rows[0]
        batch = Batch(body=body[_FRAME.size :], span_count=_span_count(body), created_s=created_s)
        return PendingBatch(batch, self, seq)

    def remove(self, pending: "PendingBatch") -> None:
        """Delete the batch at the head."""
        index = self.journal.index
        # The index first: if the file cannot be written, the batch is not sent again by this process.
        index.cursors[_READER] = pending.seq
        index.drop_until(pending.seq)
        self.span_count -= pending.batch.span_count
        self.journal.save({_READER: pending.seq}, pending.seq)

    def count_spans(self) -> None:
        """Count the spans in a segment of another process."""
        index = self.journal.index
        index.drop_until(index.cursor(_READER))
        seq = index.cursor(_READER)
        while rows := self.journal.read(seq, index.last_seq, limit=1_000, limit_bytes=_READ_BYTES):
            self.span_count += sum(_span_count(body) for _, body in rows)
            seq = rows[-1][0]


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A batch with its position in the spool."""

    batch: Batch
    segment: _SpoolSegment = field(repr=False)
    seq: int = 0


class Spool:
    """A first-in-first-out queue of batches on disk; thread-safe.

    Args:
        options: location and limits.
        accounting: counts dropped and adopted spans.
    """

    def __init__(self, options: SpoolOptions, accounting: SpanAccounting) -> None:
        self._options = options
        self._accounting = accounting
        self._lock = threading.RLock()
        self._segments: list[_SpoolSegment] = []
        self._own: _SpoolSegment | None = None
        self._memory = _SpoolSegment(MemorySegment())
        self._disk_retry_s = 0.0
        self._is_closed = False
        self._busy_since_s: float | None = None
        self.spans_on_disk = 0

    @property
    def size_bytes(self) -> int:
        """The size of the queued batches."""
        return sum(segment.journal.index.size_bytes for segment in (*self._segments, self._memory))

    @property
    def is_durable(self) -> bool:
        """Return whether all queued batches survive the process."""
        return self._options.directory is not None and not self._memory.span_count

    def stall(self) -> str:
        """Describe an access to the disk that has run for 2 s or more, else return ""; takes no lock."""
        since_s = self._busy_since_s
        stalled_s = 0.0 if since_s is None else time.monotonic() - since_s
        return f"the spool has not responded for {stalled_s:.0f} s" if stalled_s >= _STALL_S else ""

    def adopt(self) -> None:
        """Take over the files of dead processes."""
        directory = self._options.directory
        if directory is None or not directory.is_dir():
            return
        with self._updating_counts():
            for journal in [] if self._is_closed else adopt(directory):
                segment = _SpoolSegment(journal)
                try:
                    segment.count_spans()
                except (sqlite3.Error, OSError) as exc:
                    self._reject_adopted(segment, exc)
                    continue
                self._segments.append(segment)
                self._accounting.add_adopted(segment.span_count)
                if segment.span_count:
                    _logger.info("spool of an earlier process adopted, %d spans queued", segment.span_count)

    def put(self, batches: Sequence[Batch]) -> None:
        """Queue `batches`, whose spans are counted as waiting; those above `max_bytes` are dropped."""
        with self._updating_counts():
            accepted, size_bytes = [], self.size_bytes
            for batch in batches:
                size_bytes += len(batch.body) + _FRAME.size
                if size_bytes > self._options.max_bytes:
                    self._accounting.mark_dropped(batch.span_count, "spool_full")
                else:
                    accepted.append(batch)
            self._append(accepted)

    def head(self) -> PendingBatch | None:
        """Return the next batch without removing it, None if the spool is empty."""
        with self._updating_counts():
            heads = (self._readable_head(segment) for segment in (*self._segments, self._memory))
            return next((pending for pending in heads if pending is not None), None)

    def remove(
        self,
        pending: PendingBatch,
        *,
        requeue: Sequence[Batch] = (),
        account: Callable[[int], None] = lambda _span_count: None,
    ) -> None:
        """Remove the batch at the head.

        Args:
            requeue: batches that replace it, at the end of the queue.
            account: called with the number of its spans while the spool is locked, so that `close` sees both changes
                or none.
        """
        with self._updating_counts():
            if self._is_closed:
                return
            self._append(requeue)
            self._remove(pending)
            self._update_disk_count()
            account(pending.batch.span_count)

    def has_more(self) -> bool:
        """Return whether more than one batch is queued."""
        with self._lock:
            return sum(len(segment.journal.index) for segment in (*self._segments, self._memory)) > 1

    def close(self, *, timeout_s: float) -> None:
        """Release the files, for the next process to adopt.

        Args:
            timeout_s: seconds to wait for a thread that uses the spool.
        """
        if not self._lock.acquire(timeout=max(timeout_s, 0.0)):
            return
        try:
            self._is_closed = True
            for segment in self._segments:
                with suppress(sqlite3.Error, OSError):
                    segment.journal.close()
            self._segments = []
        finally:
            self._lock.release()

    def before_fork(self) -> bool:
        """Lock the spool and return whether that succeeded; `after_fork_in_parent` unlocks it."""
        # A fork in the middle of a call would leave SQLite's own locks held in the child for its whole life.
        return self._lock.acquire(timeout=_FORK_TIMEOUT_S)

    def after_fork_in_parent(self) -> None:
        """Unlock the spool."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Abandon the files, which belong to the parent."""
        for segment in self._segments:
            if isinstance(segment.journal, DiskSegment):
                segment.journal.abandon()

    @contextmanager
    def _updating_counts(self) -> Iterator[None]:
        with self._lock:
            self._busy_since_s = time.monotonic()
            try:
                yield
            finally:
                self._busy_since_s = None
                self._update_disk_count()

    def _update_disk_count(self) -> None:
        # After `close` the count of what was kept remains.
        if not self._is_closed:
            self.spans_on_disk = sum(segment.span_count for segment in self._segments)

    def _append(self, batches: Sequence[Batch]) -> None:
        if not batches:
            return
        segment = self._writable()
        try:
            segment.append(batches)
        except (sqlite3.Error, OSError) as exc:
            self._disk_retry_s = time.monotonic() + _RETRY_DISK_S
            _logger.warning("spool cannot be written, spans wait in memory: %s", exc)
            if is_damage(exc):
                self._set_aside(segment, exc)
            self._memory.append(batches)

    def _writable(self) -> _SpoolSegment:
        if self._options.directory is None or self._is_closed or time.monotonic() < self._disk_retry_s:
            return self._memory
        if self._own is None:
            try:
                self._own = _SpoolSegment(DiskSegment.create(self._options.directory))
            except (sqlite3.Error, OSError) as exc:
                self._disk_retry_s = time.monotonic() + _RETRY_DISK_S
                _logger.warning("spool %s unavailable, spans wait in memory: %s", self._options.directory, exc)
                return self._memory
            self._segments.append(self._own)
        return self._own

    def _readable_head(self, segment: _SpoolSegment) -> PendingBatch | None:
        try:
            return self._unexpired_head(segment)
        except (sqlite3.Error, OSError) as exc:
            if is_damage(exc):
                self._set_aside(segment, exc)
            return None

    def _unexpired_head(self, segment: _SpoolSegment) -> PendingBatch | None:
        while (pending := segment.head()) is not None:
            if time.time() - pending.batch.created_s <= self._options.max_age_s:
                return pending
            self._accounting.mark_dropped(pending.batch.span_count, "too_old")
            self._remove(pending)
        return None

    def _remove(self, pending: PendingBatch) -> None:
        segment = pending.segment
        try:
            segment.remove(pending)
        except (sqlite3.Error, OSError) as exc:
            # The index has forgotten the batch; only a crash before the next successful delete sends it again.
            _logger.debug("spooled batch cannot be deleted: %s", exc)
        if len(segment.journal.index) or not segment.is_on_disk:
            return
        if segment is not self._own or segment.written_bytes > _MAX_REUSED_BYTES:
            self._detach(segment)
            with suppress(sqlite3.Error, OSError):
                segment.journal.close()

    def _reject_adopted(self, segment: _SpoolSegment, exc: BaseException) -> None:
        # None of its spans was counted as produced here, so none may be counted as dropped.
        segment.span_count = 0
        if is_damage(exc):
            self._set_aside(segment, exc)
        else:
            segment.journal.close()

    def _detach(self, segment: _SpoolSegment) -> None:
        if segment in self._segments:
            self._segments.remove(segment)
        if segment is self._own:
            self._own = None

    def _set_aside(self, segment: _SpoolSegment, exc: BaseException) -> None:
        self._detach(segment)
        self._accounting.mark_dropped(segment.span_count, "damaged")
        kept = segment.journal.set_aside() if isinstance(segment.journal, DiskSegment) else ""
        _logger.error("spool damaged, %d spans dropped, file set aside as %s: %s", segment.span_count, kept, exc)


def _span_count(body: bytes) -> int:
    """Return the number of spans in a stored batch, from its frame.

    Raises:
        sqlite3.DatabaseError: the frame is damaged.
    """
    if len(body) < _FRAME.size or not body.startswith(_MAGIC):
        raise sqlite3.DatabaseError("a stored batch has no valid frame")
    span_count: int = _FRAME.unpack_from(body)[1]
    return span_count
