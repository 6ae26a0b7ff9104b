"""The books of the outbox: what became of every record for every sink, and which records still wait where.

Nothing here touches a disk or a clock. Every method may be called from any thread, and whoever reads in between sees
`produced = delivered + waiting + dropped`, because each method takes one lock for the whole of its change.
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forge_otel._journal.index import Index, Row

__all__ = ["DeliveryAccounting", "SinkCounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCounts:
    """What became of the records that were produced for one sink."""

    produced: int
    delivered: int
    waiting: int
    dropped: Mapping[str, int]
    oldest_at_s: float | None
    """Unix time at which the record that has waited longest was taken."""


@dataclass(slots=True)
class _Account:
    produced: int = 0
    delivered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class DeliveryAccounting:
    """Counts for every sink what was produced, delivered and dropped, and knows what waits.

    Args:
        sinks: their names, each once.
    """

    def __init__(self, sinks: Sequence[str]) -> None:
        self.sinks = tuple(sinks)
        self._accounts = {sink: _Account() for sink in self.sinks}
        self._indexes: list[Index] = []
        self._queued = 0
        self._queued_bytes = 0
        self._lock = threading.Lock()

    def offer(self, size_bytes: int, *, limit_bytes: int) -> bool:
        """Count a record as produced; return whether there is room for it on its way to a segment."""
        with self._lock:
            for account in self._accounts.values():
                account.produced += 1
            if not self._has_room(size_bytes, limit_bytes):
                self._drop("full")
                return False
            self._queued += 1
            self._queued_bytes += size_bytes
            return True

    def has_room(self, size_bytes: int, *, limit_bytes: int) -> bool:
        """Say whether `offer` would take a record of that size now."""
        with self._lock:
            return self._has_room(size_bytes, limit_bytes)

    def refuse(self, reason: str, *, count: int = 1) -> None:
        """Count records as produced and dropped at once."""
        with self._lock:
            for account in self._accounts.values():
                account.produced += count
                account.dropped[reason] += count

    def store(self, index: Index, rows: Sequence[Row], *, queued_bytes: int) -> None:
        """Move records from the queue into a segment."""
        with self._lock:
            self._queued -= len(rows)
            self._queued_bytes -= queued_bytes
            index.extend(rows)

    def drop_queued(self, reason: str, *, queued_bytes: int) -> None:
        """Drop a record on its way to a segment."""
        with self._lock:
            self._queued -= 1
            self._queued_bytes -= queued_bytes
            self._drop(reason)

    def add(self, index: Index, *, first: bool = False) -> None:
        """Take a segment into the books: what waits in it was produced by somebody who is gone."""
        with self._lock:
            for sink, account in self._accounts.items():
                account.produced += index.waiting(sink)
            index.forget(self.floor(index))
            self._indexes.insert(0 if first else len(self._indexes), index)

    def replace(self, index: Index, rescued: Index, reason: str) -> int:
        """Put what was rescued of a segment in its place; what was not is dropped.

        Returns:
            How many deliveries that cost, over all sinks.
        """
        with self._lock:
            # A sink may have been served meanwhile.
            rescued.cursors.update(index.cursors)
            lost = 0
            for sink, account in self._accounts.items():
                missing = index.waiting(sink) - rescued.waiting(sink)
                account.dropped[reason] += max(0, missing)
                account.produced += max(0, -missing)
                lost += max(0, missing)
            rescued.forget(self.floor(rescued))
            self._indexes = [rescued if known is index else known for known in self._indexes]
            return lost

    def settle(self, sink: str, index: Index, seq: int, *, delivered: int, dropped: Mapping[str, int]) -> None:
        """Move the cursor of `sink` to `seq`; records that were indexed but are in neither number were damaged."""
        with self._lock:
            if index not in self._indexes:
                return  # discarded while the sink was at work, and booked then
            before = index.waiting(sink)
            index.cursors[sink] = max(seq, index.cursor(sink))
            passed = before - index.waiting(sink)
            account = self._accounts[sink]
            account.delivered += delivered
            account.dropped.update(dropped)
            account.dropped["damaged"] += passed - delivered - sum(dropped.values())
            index.forget(self.floor(index))

    def discard(self, index: Index, reason: str) -> int:
        """Take a segment out of the books; what waits in it is dropped.

        Returns:
            How many deliveries that cost, over all sinks.
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

    def floor(self, index: Index) -> int:
        """Return the number of the last record in a segment that no sink needs any more."""
        return min((index.cursor(sink) for sink in self.sinks), default=0)

    def progress(self, index: Index) -> tuple[dict[str, int], int]:
        """Return up to where each sink is served in a segment, and its floor, at one moment."""
        with self._lock:
            return dict.fromkeys(self.sinks, 0) | index.cursors, self.floor(index)

    def next_for(self, sink: str) -> Index | None:
        """Return the oldest segment that holds something for `sink`."""
        with self._lock:
            return next((index for index in self._indexes if index.waiting(sink)), None)

    def tallies(self) -> dict[str, SinkCounts]:
        """Return what became of all records, for every sink, at one moment."""
        with self._lock:
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

    def waiting(self, sink: str) -> int:
        """Count the records that `sink` still needs, those on their way to a segment included."""
        with self._lock:
            return self._waiting(sink)

    @property
    def size_bytes(self) -> int:
        """Size of all records in all segments."""
        with self._lock:
            return sum(index.size_bytes for index in self._indexes)

    def _waiting(self, sink: str) -> int:
        return self._queued + sum(index.waiting(sink) for index in self._indexes)

    def _has_room(self, size_bytes: int, limit_bytes: int) -> bool:
        # One that is larger than the limit is taken alone.
        return not self._queued_bytes or self._queued_bytes + size_bytes <= limit_bytes

    def _drop(self, reason: str) -> None:
        for account in self._accounts.values():
            account.dropped[reason] += 1
