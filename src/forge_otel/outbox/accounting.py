"""Delivery accounting: counters of each sink and the segments in which its records wait.

Nothing here touches a disk or a clock. All methods are thread-safe and atomic, so that every reader sees
`produced = delivered + waiting + dropped`.
"""

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forge_otel._journal.index import Row, SegmentIndex

__all__ = ["DeliveryAccounting", "SinkCounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCounts:
    """Counters of one sink."""

    produced: int
    delivered: int
    waiting: int
    dropped: Mapping[str, int]
    oldest_at_s: float | None
    """Unix time at which the oldest waiting record arrived."""


@dataclass(slots=True)
class _Account:
    produced: int = 0
    delivered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class DeliveryAccounting:
    """Counts produced, delivered and dropped records for each sink, and lists the segments that hold the waiting ones.

    Args:
        sinks: their unique names.
    """

    def __init__(self, sinks: Sequence[str]) -> None:
        self.sinks = tuple(sinks)
        self._accounts = {sink: _Account() for sink in self.sinks}
        self._indexes: list[SegmentIndex] = []
        # Records that were offered and are not in a segment yet.
        self._unstored = 0
        self._unstored_bytes = 0
        self._lock = threading.Lock()

    def offer(self, size_bytes: int, *, limit_bytes: int) -> bool:
        """Count a record as produced, and return whether the memory in front of the journal has room for it."""
        with self._lock:
            for account in self._accounts.values():
                account.produced += 1
            if not self._has_room(size_bytes, limit_bytes):
                self._drop("full")
                return False
            self._unstored += 1
            self._unstored_bytes += size_bytes
            return True

    def has_room(self, size_bytes: int, *, limit_bytes: int) -> bool:
        """Return whether `offer` would accept a record of this size now."""
        with self._lock:
            return self._has_room(size_bytes, limit_bytes)

    def drop_new(self, reason: str, *, count: int = 1) -> None:
        """Count records as produced and dropped."""
        with self._lock:
            for account in self._accounts.values():
                account.produced += count
                account.dropped[reason] += count

    def store(self, index: SegmentIndex, rows: Sequence[Row], *, queued_bytes: int) -> None:
        """Move offered records into a segment.

        Args:
            index: of the segment.
            rows: of the records.
            queued_bytes: sum of the sizes with which they were offered.
        """
        with self._lock:
            self._unstored -= len(rows)
            self._unstored_bytes -= queued_bytes
            index.extend(rows)

    def drop_unstored(self, reason: str, *, queued_bytes: int) -> None:
        """Drop an offered record before it is in a segment."""
        with self._lock:
            self._unstored -= 1
            self._unstored_bytes -= queued_bytes
            self._drop(reason)

    def add_segment(self, index: SegmentIndex, *, first: bool = False) -> None:
        """Add a segment and count its waiting records as produced.

        Args:
            index: of the segment.
            first: put it before all others, as adopted segments are.
        """
        with self._lock:
            for sink, account in self._accounts.items():
                account.produced += index.waiting(sink)
            index.drop_until(self.acknowledged_by_all(index))
            self._indexes.insert(0 if first else len(self._indexes), index)

    def replace_segment(self, index: SegmentIndex, recovered: SegmentIndex, reason: str) -> int:
        """Replace a damaged segment with its recovered records, and count the lost ones as dropped.

        Returns:
            Number of dropped deliveries, over all sinks.
        """
        with self._lock:
            # A sink may have acknowledged records since the recovery began.
            recovered.cursors.update(index.cursors)
            lost = 0
            for sink, account in self._accounts.items():
                missing = index.waiting(sink) - recovered.waiting(sink)
                account.dropped[reason] += max(0, missing)
                account.produced += max(0, -missing)
                lost += max(0, missing)
            recovered.drop_until(self.acknowledged_by_all(recovered))
            self._indexes = [recovered if known is index else known for known in self._indexes]
            return lost

    def acknowledge(
        self, sink: str, index: SegmentIndex, seq: int, *, delivered: int, dropped: Mapping[str, int]
    ) -> None:
        """Move the cursor of `sink` to `seq`; records in between that are in neither count are dropped as damaged."""
        with self._lock:
            if index not in self._indexes:
                # The segment was removed during the delivery, and its records were counted then.
                return
            before = index.waiting(sink)
            index.cursors[sink] = max(seq, index.cursor(sink))
            passed = before - index.waiting(sink)
            account = self._accounts[sink]
            account.delivered += delivered
            account.dropped.update(dropped)
            account.dropped["damaged"] += passed - delivered - sum(dropped.values())
            index.drop_until(self.acknowledged_by_all(index))

    def remove_segment(self, index: SegmentIndex, reason: str) -> int:
        """Remove a segment and count its waiting records as dropped.

        Returns:
            Number of dropped deliveries, over all sinks.
        """
        with self._lock:
            lost = 0
            for sink, account in self._accounts.items():
                waiting = index.waiting(sink)
                lost += waiting
                if waiting:
                    account.dropped[reason] += waiting
            if index in self._indexes:
                self._indexes.remove(index)
            return lost

    def acknowledged_by_all(self, index: SegmentIndex) -> int:
        """Return the sequence number up to which every sink has acknowledged a segment."""
        return min((index.cursor(sink) for sink in self.sinks), default=0)

    def progress(self, index: SegmentIndex) -> tuple[dict[str, int], int]:
        """Return the cursors of all sinks in a segment, and the smallest of them."""
        with self._lock:
            return dict.fromkeys(self.sinks, 0) | index.cursors, self.acknowledged_by_all(index)

    def next_segment(self, sink: str) -> SegmentIndex | None:
        """Return the oldest segment with a waiting record for `sink`."""
        with self._lock:
            return next((index for index in self._indexes if index.waiting(sink)), None)

    def counts(self) -> dict[str, SinkCounts]:
        """Return a consistent snapshot of the counters of each sink."""
        with self._lock:
            return self._counts()

    def final_counts(self, volatile: Collection[SegmentIndex]) -> dict[str, SinkCounts]:
        """Return the counters as they are if the process ends now: waiting records that are not on disk are dropped.

        Args:
            volatile: segments in memory.
        """
        with self._lock:
            in_memory = [index for index in self._indexes if any(index is other for other in volatile)]
            counts = self._counts()
            for sink, count in counts.items():
                lost = self._unstored + sum(index.waiting(sink) for index in in_memory)
                dropped = Counter(count.dropped)
                dropped["shutdown"] += lost
                counts[sink] = replace(count, waiting=count.waiting - lost, dropped=dict(+dropped))
            return counts

    def waiting(self, sink: str) -> int:
        """Count the records that `sink` still needs, including those that are not in a segment yet."""
        with self._lock:
            return self._waiting(sink)

    @property
    def size_bytes(self) -> int:
        """Size of the records in all segments."""
        with self._lock:
            return sum(index.size_bytes for index in self._indexes)

    def _counts(self) -> dict[str, SinkCounts]:
        return {
            sink: SinkCounts(
                produced=account.produced,
                delivered=account.delivered,
                waiting=self._waiting(sink),
                dropped={reason: count for reason, count in account.dropped.items() if count},
                oldest_at_s=next((at for index in self._indexes if (at := index.oldest_at_s(sink))), None),
            )
            for sink, account in self._accounts.items()
        }

    def _waiting(self, sink: str) -> int:
        return self._unstored + sum(index.waiting(sink) for index in self._indexes)

    def _has_room(self, size_bytes: int, limit_bytes: int) -> bool:
        # A record above the limit is accepted while the memory is empty; otherwise it would never be.
        return not self._unstored_bytes or self._unstored_bytes + size_bytes <= limit_bytes

    def _drop(self, reason: str) -> None:
        for account in self._accounts.values():
            account.dropped[reason] += 1
