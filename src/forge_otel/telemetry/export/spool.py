"""Encoded batches of spans on their way out: on local disk, so that a killed process loses none of them.

A batch is stored before it is sent, and deleted after the server has taken it: what the death of a process leaves is
adopted by the next one, and what was sent but not yet deleted is sent twice, under the same span ids. Policy: above
`max_bytes` new batches are dropped (`spool_full`), older than `max_age_s` none is sent (`too_old`). What the disk
does not take waits in memory. Safe to use from several threads.
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

logger = logging.getLogger(__name__)

_READER: Final = "export"
_FRAME: Final = struct.Struct(">4sI")
_MAGIC: Final = b"FGS1"
_READ_BYTES: Final = 4 * 2**20
# An emptied file of this size is deleted, because SQLite would keep its pages for ever.
_LARGE_BYTES: Final = 16 * 2**20
_RETRY_DISK_S: Final = 5.0
_FORK_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolOptions:
    """Where batches wait, and how many.

    Args:
        directory: shared by the processes of one service; each has a file of its own in it, for its owner's eyes only.
            None keeps batches in memory.
        max_bytes: of the batches on disk, as they are sent.
        max_age_s: after so long a batch is no longer sent.
    """

    directory: Path | None = None
    max_bytes: int = 256 * 2**20
    max_age_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One encoded batch.

    Args:
        count: of the spans in it.
        at_s: when it was made, Unix time.
    """

    body: bytes = field(repr=False)
    count: int
    at_s: float = field(default_factory=time.time)


class _SpoolSegment:
    """A segment, and how many spans are in it."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.spans = 0
        self.grown_bytes = 0

    @property
    def on_disk(self) -> bool:
        """Whether it outlives the process."""
        return isinstance(self.segment, DiskSegment)

    def append(self, parcels: Sequence[Batch]) -> None:
        """Store all or none."""
        bodies = [(parcel.at_s, _FRAME.pack(_MAGIC, parcel.count) + parcel.body) for parcel in parcels]
        self.segment.index.extend(self.segment.append(bodies))
        self.spans += sum(parcel.count for parcel in parcels)
        self.grown_bytes += sum(len(body) for _, body in bodies)

    def head(self) -> "PendingBatch | None":
        """Return what has waited longest."""
        index = self.segment.index
        at_s = index.oldest_at_s(_READER)
        if at_s is None:
            return None
        rows = self.segment.read(index.cursor(_READER), index.last_seq, limit=1, limit_bytes=1)
        if not rows:
            raise sqlite3.DatabaseError("a batch that was stored is not there")
        seq, body = rows[0]
        count = _count(body)
        return PendingBatch(Batch(body=body[_FRAME.size :], count=count, at_s=at_s), self, seq)

    def settle(self, held: "PendingBatch") -> None:
        """Delete what is done with."""
        index = self.segment.index
        index.cursors[_READER] = held.seq
        index.forget(held.seq)
        self.spans -= held.parcel.count
        self.segment.save({_READER: held.seq}, held.seq)

    def count(self) -> None:
        """Find out how many spans are in a segment that another process has left."""
        index = self.segment.index
        index.forget(index.cursor(_READER))
        seq = index.cursor(_READER)
        while rows := self.segment.read(seq, index.last_seq, limit=1_000, limit_bytes=_READ_BYTES):
            self.spans += sum(_count(body) for _, body in rows)
            seq = rows[-1][0]


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A batch that is still in the spool, and where."""

    parcel: Batch
    shelf: _SpoolSegment = field(repr=False)
    seq: int = 0


class Spool:
    """Keeps batches until they are settled.

    Args:
        options: where and how many.
        ledger: what is dropped or adopted is entered there.
    """

    def __init__(self, options: SpoolOptions, ledger: SpanAccounting) -> None:
        self._options = options
        self._ledger = ledger
        self._lock = threading.RLock()
        self._shelves: list[_SpoolSegment] = []
        self._own: _SpoolSegment | None = None
        self._memory = _SpoolSegment(MemorySegment())
        self._disk_from_s = 0.0
        self._is_closed = False
        self.spans_on_disk = 0

    @property
    def size_bytes(self) -> int:
        """Size of what waits."""
        return sum(shelf.segment.index.size_bytes for shelf in (*self._shelves, self._memory))

    @property
    def is_durable(self) -> bool:
        """Whether all of it outlives the process."""
        return self._options.directory is not None and not self._memory.spans

    def adopt(self) -> None:
        """Take over what dead processes have left."""
        directory = self._options.directory
        if directory is None or not directory.is_dir():
            return
        with self._changing():
            for segment in [] if self._is_closed else adopt(directory):
                shelf = _SpoolSegment(segment)
                try:
                    shelf.count()
                except (sqlite3.Error, OSError) as exc:
                    self._leave(shelf, exc)
                    continue
                self._shelves.append(shelf)
                self._ledger.adopted(shelf.spans)
                if shelf.spans:
                    logger.info("%d spans of an earlier process are sent now", shelf.spans)

    def put(self, parcels: Sequence[Batch]) -> None:
        """Keep `parcels`, whose spans are waiting in the ledger; what there is no room for is dropped there."""
        with self._changing():
            taken, size_bytes = [], self.size_bytes
            for parcel in parcels:
                size_bytes += len(parcel.body) + _FRAME.size
                if size_bytes > self._options.max_bytes:
                    self._ledger.dropped(parcel.count, "spool_full")
                else:
                    taken.append(parcel)
            self._append(taken)

    def head(self) -> PendingBatch | None:
        """Return the batch that is to be sent next, None where nothing waits; it stays until it is settled."""
        with self._changing():
            heads = (self._readable_head(shelf) for shelf in (*self._shelves, self._memory))
            return next((held for held in heads if held is not None), None)

    def settle(
        self, held: PendingBatch, *, requeue: Sequence[Batch] = (), book: Callable[[int], None] = lambda _count: None
    ) -> None:
        """Delete a batch; what is to be sent in its place goes to the end of the line.

        Args:
            book: enters its spans in the ledger, at once with the deletion as far as `close` can see.
        """
        with self._changing():
            if self._is_closed:
                return
            self._append(requeue)
            self._settle(held)
            self._count_disk()
            book(held.parcel.count)

    def has_more(self) -> bool:
        """Return whether anything waits behind the head."""
        with self._lock:
            return sum(len(shelf.segment.index) for shelf in (*self._shelves, self._memory)) > 1

    def close(self, *, timeout_s: float) -> None:
        """Give up the files; what waits in them is adopted by the next process."""
        if not self._lock.acquire(timeout=max(timeout_s, 0.0)):
            return
        try:
            self._is_closed = True
            for shelf in self._shelves:
                with suppress(sqlite3.Error, OSError):
                    shelf.segment.close()
            self._shelves = []
        finally:
            self._lock.release()

    def before_fork(self) -> bool:
        """Let nothing be under way in SQLite, whose own locks a child could never open; return whether that is so."""
        return self._lock.acquire(timeout=_FORK_PATIENCE_S)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave the files to the parent."""
        for shelf in self._shelves:
            if isinstance(shelf.segment, DiskSegment):
                shelf.segment.abandon()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            finally:
                self._count_disk()

    def _count_disk(self) -> None:
        # After the end it says what was kept.
        if not self._is_closed:
            self.spans_on_disk = sum(shelf.spans for shelf in self._shelves)

    def _append(self, parcels: Sequence[Batch]) -> None:
        if not parcels:
            return
        shelf = self._writable()
        try:
            shelf.append(parcels)
        except (sqlite3.Error, OSError) as exc:
            self._disk_from_s = time.monotonic() + _RETRY_DISK_S
            logger.warning("Spans cannot be stored on disk and wait in memory: %s", exc)
            if is_damage(exc):
                self._set_aside(shelf, exc)
            self._memory.append(parcels)

    def _writable(self) -> _SpoolSegment:
        if self._options.directory is None or self._is_closed or time.monotonic() < self._disk_from_s:
            return self._memory
        if self._own is None:
            try:
                self._own = _SpoolSegment(DiskSegment.create(self._options.directory))
            except (sqlite3.Error, OSError) as exc:
                self._disk_from_s = time.monotonic() + _RETRY_DISK_S
                logger.warning("Spans cannot be stored in %s and wait in memory: %s", self._options.directory, exc)
                return self._memory
            self._shelves.append(self._own)
        return self._own

    def _readable_head(self, shelf: _SpoolSegment) -> PendingBatch | None:
        try:
            return self._fresh_head(shelf)
        except (sqlite3.Error, OSError) as exc:
            if is_damage(exc):
                self._set_aside(shelf, exc)
            return None

    def _fresh_head(self, shelf: _SpoolSegment) -> PendingBatch | None:
        while (held := shelf.head()) is not None:
            if time.time() - held.parcel.at_s <= self._options.max_age_s:
                return held
            self._ledger.dropped(held.parcel.count, "too_old")
            self._settle(held)
        return None

    def _settle(self, held: PendingBatch) -> None:
        shelf = held.shelf
        try:
            shelf.settle(held)
        except (sqlite3.Error, OSError) as exc:
            # It is done with here; after a crash it would be sent again.
            logger.debug("A batch could not be deleted from the spool: %s", exc)
        if len(shelf.segment.index) or not shelf.on_disk:
            return
        if shelf is not self._own or shelf.grown_bytes > _LARGE_BYTES:
            self._remove(shelf)
            with suppress(sqlite3.Error, OSError):
                shelf.segment.close()

    def _leave(self, shelf: _SpoolSegment, exc: BaseException) -> None:
        shelf.spans = 0  # none of them was counted as produced here
        if is_damage(exc):
            self._set_aside(shelf, exc)
        else:
            shelf.segment.close()

    def _remove(self, shelf: _SpoolSegment) -> None:
        if shelf in self._shelves:
            self._shelves.remove(shelf)
        if shelf is self._own:
            self._own = None

    def _set_aside(self, shelf: _SpoolSegment, exc: BaseException) -> None:
        self._remove(shelf)
        self._ledger.dropped(shelf.spans, "damaged")
        kept = shelf.segment.set_aside() if isinstance(shelf.segment, DiskSegment) else ""
        logger.error("A spool with %d spans is damaged (%s); it was set aside as %s", shelf.spans, exc, kept)


def _count(body: bytes) -> int:
    """Return how many spans a stored batch says that it holds."""
    if len(body) < _FRAME.size or not body.startswith(_MAGIC):
        raise sqlite3.DatabaseError("a batch does not begin like one")
    count: int = _FRAME.unpack_from(body)[1]
    return count
