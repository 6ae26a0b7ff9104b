"""Accounting of an exporter's spans: `produced = exported + waiting + sampled_out + dropped` holds at any moment."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from forge_otel.names import Attr, Instrument, Metric
from forge_otel.telemetry.metrics.instruments import Attributes, PointsOf

__all__ = ["ExportStats", "SpanAccounting", "export_points"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportStats:
    """Span counts of an exporter; each produced span is in exactly one of the other counts.

    Args:
        produced: spans that ended since the start, plus spans adopted from the spool of a dead process.
        exported: spans that the server accepted.
        waiting: spans in the queue, in the spool or in a request.
        sampled_out: spans of traces that the sampler discarded.
        dropped: spans by reason: `filtered` (not a run), `queue_full` (memory limit), `spool_full` (disk limit),
            `refused` (rejected by the server), `too_large`, `too_old`, `unreadable` (cannot be encoded), `damaged` (a
            spool file cannot be read), `shutdown` (only in memory at the end).
        spooled: those of the waiting spans that are on disk and survive the process.
        spool_bytes: size of the spool.
        last_error: error of the last attempt; "" if it succeeded.
    """

    produced: int = 0
    exported: int = 0
    waiting: int = 0
    sampled_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    spooled: int = 0
    spool_bytes: int = 0
    last_error: str = ""


class SpanAccounting:
    """Thread-safe counters behind `ExportStats`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._produced = self._exported = self._waiting = self._sampled_out = 0
        self._dropped: Counter[str] = Counter()
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """The number of spans that are neither exported, sampled out nor dropped."""
        return self._waiting

    def add_produced(self, count: int, *, overflow: int = 0) -> None:
        """Count spans that ended.

        Args:
            count: spans that were queued.
            overflow: spans that were dropped because the queue was full.
        """
        with self._lock:
            self._produced += count + overflow
            self._waiting += count
            self._drop(overflow, "queue_full")

    def add_adopted(self, count: int) -> None:
        """Count spans that a dead process left in its spool."""
        with self._lock:
            self._produced += count
            self._waiting += count

    def mark_exported(self, count: int) -> None:
        """Move waiting spans to `exported`."""
        with self._lock:
            self._exported += self._remove_waiting(count)

    def mark_sampled_out(self, count: int) -> None:
        """Move waiting spans to `sampled_out`."""
        with self._lock:
            self._sampled_out += self._remove_waiting(count)

    def mark_dropped(self, count: int, reason: str) -> None:
        """Move waiting spans to `dropped`."""
        with self._lock:
            self._drop(self._remove_waiting(count), reason)

    def close(self, *, kept: int = 0) -> int:
        """Drop the waiting spans as `shutdown` and ignore later changes of their state.

        Args:
            kept: spans on disk; they stay `waiting`, for the next process.

        Returns:
            The number of dropped spans.
        """
        with self._lock:
            lost = self._remove_waiting(max(self._waiting - kept, 0))
            self._drop(lost, "shutdown")
            self._is_closed = True
            return lost

    def stats(self) -> ExportStats:
        """Return a consistent snapshot of the counts."""
        with self._lock:
            return ExportStats(
                produced=self._produced,
                exported=self._exported,
                waiting=self._waiting,
                sampled_out=self._sampled_out,
                dropped=MappingProxyType(dict(self._dropped)),
            )

    def _remove_waiting(self, count: int) -> int:
        # A thread that outlives the shutdown may still report spans that `close` has counted already.
        if self._is_closed:
            return 0
        self._waiting -= count
        return count

    def _drop(self, count: int, reason: str) -> None:
        if count:
            self._dropped[reason] += count


def export_points(destination: str) -> Mapping[Instrument, PointsOf[ExportStats]]:
    """Return the instruments of an exporter, each with its values in the exporter's counts.

    Args:
        destination: value of the attribute that names the exporter.
    """
    attributes = {Attr.DESTINATION: destination}

    def settled(stats: ExportStats) -> list[tuple[float, Attributes]]:
        dropped = [
            (count, {Attr.OUTCOME: "dropped", Attr.REASON: reason, **attributes})
            for reason, count in stats.dropped.items()
        ]
        return [
            (stats.exported, {Attr.OUTCOME: "exported", **attributes}),
            (stats.sampled_out, {Attr.OUTCOME: "sampled_out", **attributes}),
            *dropped,
        ]

    return {
        Metric.EXPORT_PRODUCED: lambda stats: [(stats.produced, attributes)],
        Metric.EXPORT_SETTLED: settled,
        Metric.EXPORT_WAITING: lambda stats: [(stats.waiting, attributes)],
        Metric.EXPORT_SPOOL: lambda stats: [(stats.spool_bytes, attributes)],
    }
