"""Chain of segments that holds the waiting records in order; its methods run on the outbox's writer thread.

New records are appended to the last segment, which is a file, or memory while the disk fails. Segments of dead
processes come first, so that a sink reads all records in order.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Final

from forge_otel._journal.adoption import adopt, recover_segment
from forge_otel._journal.index import Row, SegmentIndex
from forge_otel._journal.recovery import LogFiles
from forge_otel._journal.segments import DiskSegment, MemorySegment, Segment, is_damage
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.codec import is_intact

__all__ = ["DISK_ERRORS", "EncodedRecord", "SegmentChain"]

_logger = getLogger(__name__)
_MEMORY_BYTES: Final = 64 * 2**20
_ROTATE_BYTES: Final = 64 * 2**20
_DISK_RETRY_S: Final = 1.0
# Together the mark of a backlog: records delivered since the last check, and records that still wait.
_MANY_DELIVERED: Final = 500
_MANY_WAITING: Final = 2_000

DISK_ERRORS: Final = (sqlite3.Error, OSError)
"""Exceptions of a disk that is full, broken, read-only or unmounted."""


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A record on its way into a segment.

    Args:
        body: the encoded record.
        at_s: Unix time of its arrival.
        queued_bytes: size with which it was offered to the accounting.
        settle: called when the record is in a segment, with whether that survives the process; returns the body that
            must replace it, or None.
    """

    body: bytes
    at_s: float
    queued_bytes: int
    settle: Callable[[bool], bytes | None] = lambda _is_durable: None


class SegmentChain:
    """Stores records until every sink has acknowledged them; errors of the disk are handled here.

    Args:
        accounting: counts every change.
        directory: folder of the files; None keeps records in memory.
        max_bytes: size of all waiting records above which new ones are dropped.
        is_power_safe: flush each commit to the disk.
    """

    def __init__(
        self, accounting: DeliveryAccounting, *, directory: Path | None, max_bytes: int, is_power_safe: bool
    ) -> None:
        self.is_durable = False
        self._accounting = accounting
        self._directory = directory
        self._max_bytes = max_bytes
        self._is_power_safe = is_power_safe
        # A tuple that is replaced, never changed, so that other threads can read it without a lock.
        self._segments: tuple[Segment, ...] = ()
        self._active: Segment | None = None
        self._active_bytes = 0
        self._saved_seq = 0
        self._has_adopted = False
        self._tried_at_s = -_DISK_RETRY_S
        self._disk_error: BaseException | None = None

    def find(self, index: SegmentIndex | None) -> Segment | None:
        """Return the segment with this index; this method is thread-safe."""
        return next((segment for segment in self._segments if segment.index is index), None)

    def volatile(self) -> list[SegmentIndex]:
        """Return the indexes of the segments that die with this process; this method is thread-safe."""
        return [segment.index for segment in self._segments if isinstance(segment, MemorySegment)]

    def writable_segment(self) -> Segment:
        """Return the segment for new records: the open file, a new file if the disk is due, else memory."""
        active = self._active
        if isinstance(active, DiskSegment) and self._active_bytes < _ROTATE_BYTES:
            if active.has_file:
                return active
            _logger.error(
                "journal %s was removed; its records are delivered as long as this process lives", active.path
            )
            self._tried_at_s = -_DISK_RETRY_S
        if self._directory is None or time.monotonic() - self._tried_at_s < _DISK_RETRY_S:
            return active or self._push(MemorySegment())
        try:
            self._adopt(self._directory)
            segment = self._push(DiskSegment.create(self._directory, is_power_safe=self._is_power_safe))
        except DISK_ERRORS as exc:
            return self._fall_back(exc)
        self._record_disk(None)
        return segment

    def append(self, records: Sequence[EncodedRecord]) -> None:
        """Store the records up to the size limit, and drop the rest."""
        segment = self.writable_segment()
        try:
            self._append(segment, records)
        except DISK_ERRORS as exc:
            self._append(self._fall_back(exc), records)

    def save(self, segment: Segment) -> None:
        """Save the cursors of a segment, free acknowledged records, and remove the segment when it is empty."""
        if segment not in self._segments:
            return
        cursors, acknowledged = self._accounting.progress(segment.index)
        if segment is self._active and acknowledged - self._saved_seq >= _MANY_DELIVERED:
            self._rotate_backlog(segment)
        # A full file is removed as a whole: deleting 2,000 rows keeps the writer busy for 16 ms, and callers whose
        # records are being stored wait for it.
        is_full = isinstance(segment, DiskSegment) and segment is not self._active
        try:
            segment.save(cursors, 0 if is_full else acknowledged)
            if segment is self._active:
                self._saved_seq = acknowledged
        except DISK_ERRORS as exc:
            # The cost is a repeated delivery after a crash; until then the index in memory is authoritative.
            _logger.debug("cursors of the journal could not be saved: %s", exc)
        if segment is not self._active and not len(segment.index):
            self._remove(segment)

    def set_aside(self, segment: Segment, why: BaseException) -> None:
        """Replace a damaged file with its recovered records; the lost ones are counted as dropped and logged."""
        if segment not in self._segments or not isinstance(segment, DiskSegment):
            return
        if segment is self._active:
            self._push(MemorySegment())
            self._tried_at_s = -_DISK_RETRY_S
        damaged = segment.set_aside()
        recovered = self._recover(damaged, segment.index.cursors)
        if recovered is None:
            self._segments = tuple(other for other in self._segments if other is not segment)
            lost = self._accounting.remove_segment(segment.index, "damaged")
        else:
            # Both are in the chain until the accounting has switched: a worker that found neither would go to sleep.
            self._segments = (recovered, *self._segments)
            lost = self._accounting.replace_segment(segment.index, recovered.index, "damaged")
            self._segments = tuple(other for other in self._segments if other is not segment)
        _logger.error("journal is damaged (%s): %d deliveries lost, it was set aside as %s", why, lost, damaged)

    def close(self) -> None:
        """Close every file for adoption by another process; records in memory are counted as dropped."""
        for segment in self._segments:
            if isinstance(segment, MemorySegment) or (isinstance(segment, DiskSegment) and not segment.has_file):
                self._accounting.remove_segment(segment.index, "shutdown")
            self.save(segment)
            with suppress(*DISK_ERRORS):
                segment.close()
        self._segments = ()
        self._active = None

    def _rotate_backlog(self, segment: Segment) -> None:
        """Switch to a new file if many records wait in this one, which can then be removed as a whole."""
        if self._directory is None or not isinstance(segment, DiskSegment) or len(segment.index) < _MANY_WAITING:
            return
        try:
            self._push(DiskSegment.create(self._directory, is_power_safe=self._is_power_safe))
        except DISK_ERRORS as exc:
            _logger.debug("journal cannot be rotated during a backlog: %s", exc)

    def _append(self, segment: Segment, records: Sequence[EncodedRecord]) -> None:
        is_memory = isinstance(segment, MemorySegment)
        room = (min(self._max_bytes, _MEMORY_BYTES) if is_memory else self._max_bytes) - self._accounting.size_bytes
        fitting: list[EncodedRecord] = []
        dropped: list[EncodedRecord] = []
        for record in records:
            if len(record.body) > room:
                dropped.append(record)
                continue
            fitting.append(record)
            room -= len(record.body)
        if fitting:
            rows = segment.append([(record.at_s, record.body) for record in fitting])
            rows = self._settle(segment, rows, fitting)
            self._accounting.store(segment.index, rows, queued_bytes=sum(record.queued_bytes for record in fitting))
            self._active_bytes += sum(row.size_bytes for row in rows)
        for record in dropped:
            reason = "disk" if is_memory and self._directory is not None else "full"
            self._accounting.drop_unstored(reason, queued_bytes=record.queued_bytes)

    def _settle(self, segment: Segment, rows: list[Row], records: Sequence[EncodedRecord]) -> list[Row]:
        """Settle the records, rewrite those that changed while they were stored, and return their rows."""
        is_durable = self._directory is None or isinstance(segment, DiskSegment)
        changed = {
            row.seq: body
            for row, record in zip(rows, records, strict=True)
            if (body := record.settle(is_durable)) is not None
        }
        if not changed:
            return rows
        try:
            segment.rewrite(changed)
        except DISK_ERRORS as exc:
            _logger.debug("%d records could not be marked as stored late: %s", len(changed), exc)
            return rows
        return [Row(row.seq, row.at_s, len(changed[row.seq])) if row.seq in changed else row for row in rows]

    def _adopt(self, directory: Path) -> None:
        if self._has_adopted:
            return
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        adopted = list(adopt(directory, is_intact=is_intact))
        self._has_adopted = True
        for segment in reversed(adopted):
            self._accounting.add_segment(segment.index, first=True)
            if segment.lost:
                self._accounting.drop_new("damaged", count=segment.lost)
        self._segments = (*adopted, *self._segments)
        if count := sum(len(segment.index) for segment in adopted):
            _logger.info("%d records adopted from %d journals of dead processes", count, len(adopted))
        for segment in adopted:
            self.save(segment)

    def _recover(self, damaged: Path, cursors: Mapping[str, int]) -> DiskSegment | None:
        """Return a new segment with the intact records of a damaged file; None if it cannot be written."""
        try:
            return recover_segment(damaged, LogFiles(), cursors=cursors, is_intact=is_intact)
        except DISK_ERRORS as exc:
            _logger.error("journal %s cannot be recovered: %s", damaged, exc)  # noqa: TRY400 - the disk is why
            return None

    def _push(self, segment: Segment) -> Segment:
        previous, self._active, self._active_bytes, self._saved_seq = self._active, segment, 0, 0
        self._accounting.add_segment(segment.index)
        self._segments = (*self._segments, segment)
        if previous is not None and not len(previous.index):
            self._remove(previous)
        return segment

    def _remove(self, segment: Segment) -> None:
        self._segments = tuple(other for other in self._segments if other is not segment)
        self._accounting.remove_segment(segment.index, "damaged")
        with suppress(*DISK_ERRORS):
            segment.close()

    def _fall_back(self, exc: BaseException) -> Segment:
        """Switch to memory after an error of the disk; the failed file can usually still be read."""
        failed = self._active
        self._tried_at_s = time.monotonic()
        self._record_disk(exc)
        if isinstance(failed, MemorySegment):
            return failed
        memory = self._push(MemorySegment())
        if failed is not None and is_damage(exc):
            self.set_aside(failed, exc)
        return memory

    def _record_disk(self, exc: BaseException | None) -> None:
        """Log the first error of the disk and its recovery."""
        self.is_durable = exc is None
        if exc is None and self._disk_error is not None:
            _logger.warning("journal in %s writable again", self._directory)
        elif exc is not None and self._disk_error is None:
            _logger.error("journal in %s cannot be written (%s); records are queued in memory", self._directory, exc)
        self._disk_error = exc
