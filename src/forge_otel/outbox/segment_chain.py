"""The records that wait, as a chain of segments; everything here runs on the outbox's writer thread.

New records go to the last segment. It is a file as long as the disk takes it; while it does not, it is memory, and the
disk is tried again now and then. Files of dead processes are put before all others. So a sink that reads the chain
from its beginning sees all records in order, whatever happened to the disk in between.
"""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Final

from forge_otel._journal.adoption import adopt, rescue
from forge_otel._journal.index import Index
from forge_otel._journal.rescue import Remains
from forge_otel._journal.segments import DiskSegment, MemorySegment, Segment, is_damage
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.codec import is_whole

__all__ = ["DISK_TROUBLE", "Draft", "SegmentChain"]

_logger = getLogger(__name__)
_MEMORY_BYTES: Final = 64 * 2**20
_ROTATE_BYTES: Final = 64 * 2**20
_DISK_RETRY_S: Final = 1.0
# Where so many records are delivered since the last look and so many more wait, it is a backlog.
_MANY_SERVED: Final = 500
_MANY_WAITING: Final = 2_000

DISK_TROUBLE: Final = (sqlite3.Error, OSError)
"""What a disk that is full, broken, read-only or away raises."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An encoded record that the ledger counts as queued with `queued_bytes`; taken at the Unix time `at_s`."""

    body: bytes
    at_s: float
    queued_bytes: int


class SegmentChain:
    """Stores records and forgets them when every sink has them; never raises for trouble with the disk.

    Args:
        ledger: where every change is booked.
        directory: folder of the files; None keeps records in memory.
        max_bytes: size of all waiting records above which new ones are dropped.
        is_power_safe: flush each commit to the disk itself.
    """

    def __init__(
        self, ledger: DeliveryAccounting, *, directory: Path | None, max_bytes: int, is_power_safe: bool
    ) -> None:
        self.is_durable = False
        self._ledger = ledger
        self._directory = directory
        self._max_bytes = max_bytes
        self._is_power_safe = is_power_safe
        # Replaced, never changed, so that other threads may look at it.
        self._segments: tuple[Segment, ...] = ()
        self._active: Segment | None = None
        self._active_bytes = 0
        self._active_floor = 0
        self._has_adopted = False
        self._tried_at_s = -_DISK_RETRY_S
        self._trouble: BaseException | None = None

    def find(self, index: Index | None) -> Segment | None:
        """Return the segment that `index` belongs to; safe from any thread."""
        return next((segment for segment in self._segments if segment.index is index), None)

    def target(self) -> Segment:
        """Return where new records go: the open file, a new one if it is time to try, else memory."""
        active = self._active
        if isinstance(active, DiskSegment) and self._active_bytes < _ROTATE_BYTES:
            if active.is_there:
                return active
            _logger.error(
                "the journal %s was removed; what waits in it is delivered while this process lives", active.path
            )
            self._tried_at_s = -_DISK_RETRY_S
        if self._directory is None or time.monotonic() - self._tried_at_s < _DISK_RETRY_S:
            return active or self._push(MemorySegment())
        try:
            self._adopt(self._directory)
            segment = self._push(DiskSegment.create(self._directory, is_power_safe=self._is_power_safe))
        except DISK_TROUBLE as exc:
            return self._fall_back(exc)
        self._note_trouble(None)
        return segment

    def append(self, drafts: Sequence[Draft]) -> None:
        """Store what there is room for and drop the rest."""
        segment = self.target()
        try:
            self._append(segment, drafts)
        except DISK_TROUBLE as exc:
            self._append(self._fall_back(exc), drafts)

    def save(self, segment: Segment) -> None:
        """Store up to where each sink is served, free what all have, and drop the segment when it is done."""
        if segment not in self._segments:
            return
        cursors, floor = self._ledger.progress(segment.index)
        if segment is self._active and floor - self._active_floor >= _MANY_SERVED:
            self._leave_backlog(segment)
        # A full file goes as a whole: taking records out of it costs the disk as much as putting them in, and whoever
        # has just been answered waits for that.
        is_full = isinstance(segment, DiskSegment) and segment is not self._active
        try:
            segment.save(cursors, 0 if is_full else floor)
            if segment is self._active:
                self._active_floor = floor
        except DISK_TROUBLE as exc:
            # Costs a repeated delivery after a crash, nothing else: the index is what counts while we live.
            _logger.debug("the progress in the journal could not be saved: %s", exc)
        if segment is not self._active and not len(segment.index):
            self._remove(segment)

    def set_aside(self, segment: Segment, why: BaseException) -> None:
        """Take a damaged file out of the chain and rename it; what is not whole in it is lost, counted and reported."""
        if segment not in self._segments or not isinstance(segment, DiskSegment):
            return
        if segment is self._active:
            self._push(MemorySegment())
            self._tried_at_s = -_DISK_RETRY_S
        kept = segment.set_aside()
        rescued = self._rescue(kept, segment.index.cursors)
        if rescued is None:
            self._segments = tuple(other for other in self._segments if other is not segment)
            lost = self._ledger.discard(segment.index, "damaged")
        else:
            # Both are found until the books say which it is: a sink that found neither would sleep.
            self._segments = (rescued, *self._segments)
            lost = self._ledger.replace(segment.index, rescued.index, "damaged")
            self._segments = tuple(other for other in self._segments if other is not segment)
        _logger.error("a journal is damaged (%s): %d deliveries are lost, it was set aside as %s", why, lost, kept)

    def close(self) -> None:
        """Close every file, where another process may adopt it; what waits in memory is lost and counted."""
        for segment in self._segments:
            if isinstance(segment, MemorySegment) or (isinstance(segment, DiskSegment) and not segment.is_there):
                self._ledger.discard(segment.index, "shutdown")
            self.save(segment)
            with suppress(*DISK_TROUBLE):
                segment.close()
        self._segments = ()
        self._active = None

    def _leave_backlog(self, segment: Segment) -> None:
        """Let new records go to a new file if much waits in this one, which then goes as a whole, too."""
        if self._directory is None or not isinstance(segment, DiskSegment) or len(segment.index) < _MANY_WAITING:
            return
        try:
            self._push(DiskSegment.create(self._directory, is_power_safe=self._is_power_safe))
        except DISK_TROUBLE as exc:
            _logger.debug("no new file for a backlog, the old one goes on: %s", exc)

    def _append(self, segment: Segment, drafts: Sequence[Draft]) -> None:
        is_memory = isinstance(segment, MemorySegment)
        room = (min(self._max_bytes, _MEMORY_BYTES) if is_memory else self._max_bytes) - self._ledger.size_bytes
        fitting: list[Draft] = []
        refused: list[Draft] = []
        for draft in drafts:
            if len(draft.body) > room:
                refused.append(draft)
                continue
            fitting.append(draft)
            room -= len(draft.body)
        if fitting:
            rows = segment.append([(draft.at_s, draft.body) for draft in fitting])
            self._ledger.store(segment.index, rows, queued_bytes=sum(draft.queued_bytes for draft in fitting))
            self._active_bytes += sum(row.size_bytes for row in rows)
        for draft in refused:
            reason = "disk" if is_memory and self._directory is not None else "full"
            self._ledger.drop_queued(reason, queued_bytes=draft.queued_bytes)

    def _adopt(self, directory: Path) -> None:
        if self._has_adopted:
            return
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        adopted = list(adopt(directory, is_whole=is_whole))
        self._has_adopted = True
        for segment in reversed(adopted):
            self._ledger.add(segment.index, first=True)
            if segment.lost:
                self._ledger.refuse("damaged", count=segment.lost)
        self._segments = (*adopted, *self._segments)
        if count := sum(len(segment.index) for segment in adopted):
            _logger.info("adopted %d records in %d journals that dead processes left", count, len(adopted))
        for segment in adopted:
            self.save(segment)

    def _rescue(self, kept: Path, cursors: Mapping[str, int]) -> DiskSegment | None:
        """Return what is whole in a file that was set aside; None where the disk does not take it."""
        try:
            return rescue(kept, Remains(), cursors=cursors, is_whole=is_whole)
        except DISK_TROUBLE as exc:
            _logger.error("journal %s cannot be recovered: %s", kept, exc)  # noqa: TRY400 - the disk is why
            return None

    def _push(self, segment: Segment) -> Segment:
        previous, self._active, self._active_bytes, self._active_floor = self._active, segment, 0, 0
        self._ledger.add(segment.index)
        self._segments = (*self._segments, segment)
        if previous is not None and not len(previous.index):
            self._remove(previous)
        return segment

    def _remove(self, segment: Segment) -> None:
        self._segments = tuple(other for other in self._segments if other is not segment)
        self._ledger.discard(segment.index, "damaged")
        with suppress(*DISK_TROUBLE):
            segment.close()

    def _fall_back(self, exc: BaseException) -> Segment:
        """Go on in memory; the file that failed can usually still be read."""
        failed = self._active
        self._tried_at_s = time.monotonic()
        self._note_trouble(exc)
        if isinstance(failed, MemorySegment):
            return failed
        memory = self._push(MemorySegment())
        if failed is not None and is_damage(exc):
            self.set_aside(failed, exc)
        return memory

    def _note_trouble(self, exc: BaseException | None) -> None:
        """Log when the disk begins to fail and when it works again, and not in between."""
        self.is_durable = exc is None
        if exc is None and self._trouble is not None:
            _logger.warning("the journal in %s works again", self._directory)
        elif exc is not None and self._trouble is None:
            _logger.error("the journal in %s cannot be written (%s); records wait in memory", self._directory, exc)
        self._trouble = exc
