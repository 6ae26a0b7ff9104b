"""What became of every span that was handed over: `produced = exported + waiting + sampled_out + dropped`, always."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["ExportStats", "SpanAccounting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportStats:
    """The spans of an exporter, each in exactly one of the numbers but the first.

    Args:
        produced: handed over since the start, or adopted from a process that died.
        exported: taken by the server.
        waiting: in a queue, in the spool, or under way.
        sampled_out: of traces that are not sent.
        dropped: by reason: `filtered` (no run by the filter), `queue_full` (too many in memory), `spool_full`
            (too many bytes on disk), `refused` (the server said no), `too_large`, `too_old`, `unreadable`,
            `damaged` (a file that cannot be read any more), `shutdown` (only in memory at the end).
        spooled: those of the waiting that are on disk, and outlive the process.
        spool_bytes: what the spool takes.
        fault: what went wrong at the last attempt, "" where it succeeded.
    """

    produced: int = 0
    exported: int = 0
    waiting: int = 0
    sampled_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    spooled: int = 0
    spool_bytes: int = 0
    fault: str = ""


class SpanAccounting:
    """Counts; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._produced = self._exported = self._waiting = self._sampled_out = 0
        self._dropped: Counter[str] = Counter()
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """Spans that nothing has become of yet."""
        return self._waiting

    def take(self, count: int, *, overflow: int = 0) -> None:
        """Count spans that were handed over.

        Args:
            count: of those that wait from now on.
            overflow: of those that there was no room for.
        """
        with self._lock:
            self._produced += count + overflow
            self._waiting += count
            self._drop(overflow, "queue_full")

    def adopted(self, count: int) -> None:
        """Count spans that another process has left waiting."""
        with self._lock:
            self._produced += count
            self._waiting += count

    def exported(self, count: int) -> None:
        """Count waiting spans that the server has taken."""
        with self._lock:
            self._exported += self._settled(count)

    def sampled_out(self, count: int) -> None:
        """Count waiting spans of traces that are not sent."""
        with self._lock:
            self._sampled_out += self._settled(count)

    def dropped(self, count: int, reason: str) -> None:
        """Count waiting spans that will never be sent."""
        with self._lock:
            self._drop(self._settled(count), reason)

    def close(self, *, kept: int = 0) -> int:
        """Give up what waits; what becomes of it after this is not counted again.

        Args:
            kept: of those on disk, which go on waiting for the next process.

        Returns:
            How many were given up.
        """
        with self._lock:
            lost = self._settled(max(self._waiting - kept, 0))
            self._drop(lost, "shutdown")
            self._is_closed = True
            return lost

    def stats(self) -> ExportStats:
        """Return the numbers as of one moment."""
        with self._lock:
            return ExportStats(
                produced=self._produced,
                exported=self._exported,
                waiting=self._waiting,
                sampled_out=self._sampled_out,
                dropped=MappingProxyType(dict(self._dropped)),
            )

    def _settled(self, count: int) -> int:
        if self._is_closed:
            return 0
        self._waiting -= count
        return count

    def _drop(self, count: int, reason: str) -> None:
        if count:
            self._dropped[reason] += count
