"""In-memory index of the entries in one segment. Nothing here touches a disk or a clock."""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Row", "SegmentIndex"]


@dataclass(frozen=True, slots=True)
class Row:
    """One stored entry: sequence number in the segment, Unix time of arrival in seconds, and size in bytes."""

    seq: int
    at_s: float
    size_bytes: int


class SegmentIndex:
    """Entries of one segment, and the delivery cursor of each sink.

    Args:
        rows: entries that the segment holds already, in order.
        cursors: sink to the sequence number of the last entry that it has acknowledged.
    """

    def __init__(self, rows: Sequence[Row] = (), cursors: Mapping[str, int] | None = None) -> None:
        self.cursors = dict(cursors or {})
        self.size_bytes = 0
        # Arrays need 24 bytes an entry; a backlog has a million of them.
        self._seqs = array("q")
        self._times = array("d")
        self._sizes = array("q")
        self.extend(rows)

    def __len__(self) -> int:
        return len(self._seqs)

    def extend(self, rows: Sequence[Row]) -> None:
        """Add rows; their sequence numbers must be larger than all others."""
        self._seqs.extend(row.seq for row in rows)
        self._times.extend(row.at_s for row in rows)
        self._sizes.extend(row.size_bytes for row in rows)
        self.size_bytes += sum(row.size_bytes for row in rows)

    def cursor(self, sink: str) -> int:
        """Return the sequence number of the last entry that `sink` has acknowledged, 0 before the first one."""
        return self.cursors.get(sink, 0)

    @property
    def last_seq(self) -> int:
        """Sequence number of the last row, 0 in an empty segment."""
        return self._seqs[-1] if self._seqs else 0

    def waiting(self, sink: str) -> int:
        """Count the entries behind the cursor of `sink`."""
        return len(self._seqs) - bisect_right(self._seqs, self.cursor(sink))

    def oldest_at_s(self, sink: str) -> float | None:
        """Return the Unix time at which the oldest entry behind the cursor of `sink` arrived, or None."""
        position = bisect_right(self._seqs, self.cursor(sink))
        return self._times[position] if position < len(self._times) else None

    def drop_until(self, seq: int) -> None:
        """Drop the rows up to and including sequence number `seq`."""
        position = bisect_right(self._seqs, seq)
        self.size_bytes -= sum(self._sizes[:position])
        del self._seqs[:position], self._times[:position], self._sizes[:position]
