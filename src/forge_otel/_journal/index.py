"""Which entries a segment of a journal holds, in memory. Nothing here touches a disk or a clock."""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Index", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One stored record: its number in the segment, when it was taken (Unix time in seconds), and its size in bytes."""

    seq: int
    at_s: float
    size_bytes: int


class Index:
    """Which records one segment holds, and up to which of them each sink is served; 24 bytes a record.

    Args:
        rows: what the segment holds already, in order.
        cursors: sink to the number of the last record that it needs no more.
    """

    def __init__(self, rows: Sequence[Row] = (), cursors: Mapping[str, int] | None = None) -> None:
        self.cursors = dict(cursors or {})
        self.size_bytes = 0
        self._seqs = array("q")
        self._times = array("d")
        self._sizes = array("q")
        self.extend(rows)

    def __len__(self) -> int:
        return len(self._seqs)

    def extend(self, rows: Sequence[Row]) -> None:
        """Add rows that come after all others."""
        self._seqs.extend(row.seq for row in rows)
        self._times.extend(row.at_s for row in rows)
        self._sizes.extend(row.size_bytes for row in rows)
        self.size_bytes += sum(row.size_bytes for row in rows)

    def cursor(self, sink: str) -> int:
        """Return the number of the last record that `sink` needs no more."""
        return self.cursors.get(sink, 0)

    @property
    def last_seq(self) -> int:
        """The number of the last row, 0 if there is none."""
        return self._seqs[-1] if self._seqs else 0

    def waiting(self, sink: str) -> int:
        """Count the records that `sink` still needs."""
        return len(self._seqs) - bisect_right(self._seqs, self.cursor(sink))

    def oldest_at_s(self, sink: str) -> float | None:
        """Return when the first record that `sink` still needs was taken."""
        place = bisect_right(self._seqs, self.cursor(sink))
        return self._times[place] if place < len(self._times) else None

    def forget(self, floor: int) -> None:
        """Drop the rows up to number `floor`."""
        place = bisect_right(self._seqs, floor)
        self.size_bytes -= sum(self._sizes[:place])
        del self._seqs[:place], self._times[:place], self._sizes[:place]
