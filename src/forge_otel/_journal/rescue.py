"""What can still be read of a damaged journal, and how much of it is known to be lost."""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from forge_otel._journal.sqlite_recovery import committed_frames, is_cut_short, recover

__all__ = ["IsWhole", "Remains", "Rescued", "cursors_of"]

# Each has some hundred bytes at least.
_MOST_ON_A_PAGE: Final = 8

IsWhole = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was found.

    Args:
        rows: number, Unix time in seconds and body of each record that is whole, in order.
        lost: how many are known to be missing; 1 where only that some are is known.
    """

    rows: list[tuple[int, float, bytes]]
    lost: int


@dataclass(frozen=True, slots=True)
class Remains:
    """The log of a journal as a process left it, read before SQLite puts it in order."""

    wal: bytes = b""
    shm: bytes = b""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read what lies beside the journal at `path`."""
        return cls(*(_content(path.with_name(f"{path.name}{suffix}")) for suffix in ("-wal", "-shm")))

    def rescue(self, file: bytes, *, cursors: Mapping[str, int] | None, is_whole: IsWhole) -> Rescued:
        """Return what the log and the contents of the journal hold, and count what is missing that a sink still needs.

        Args:
            file: contents of the journal.
            cursors: up to where each sink is served; None where that is not known.
            is_whole: says whether a body is one.
        """
        served = None if cursors is None else min(cursors.values(), default=0)
        rescued = self._carve(file, 0, served, is_whole)
        is_short = is_cut_short(file) or not rescued.rows
        return Rescued(rescued.rows, max(rescued.lost, int(is_short)))

    def tail(self, path: Path, *, frames: int, after: int, is_whole: IsWhole) -> Rescued:
        """Return what was committed and is not among the records that SQLite sees.

        Args:
            path: of the journal.
            frames: of the log that SQLite takes for whole.
            after: number of the last record that it sees, or that a sink has.
            is_whole: says whether a body is one.
        """
        if committed_frames(self.wal, self.shm) <= frames:
            return Rescued([], 0)
        rescued = self._carve(path.read_bytes(), after, after, is_whole)
        return Rescued(rescued.rows, max(rescued.lost, int(not rescued.rows)))

    def _carve(self, file: bytes, after: int, served: int | None, is_whole: IsWhole) -> Rescued:
        found = recover(file, self.wal, is_whole=is_whole)
        rows = [(seq, *found.rows[seq]) for seq in sorted(found.rows) if seq > after]
        # They are numbered without a gap.
        first = served + 1 if served is not None else min(found.rows, default=1)
        last = max([first - 1, *(seq for seq, *_ in rows)])
        for seq in sorted(found.broken):
            # A number that is far off is a damaged one.
            if last < seq <= last + _MOST_ON_A_PAGE:
                last = seq
        return Rescued(rows, last - first + 1 - sum(seq >= first for seq, *_ in rows))


def cursors_of(path: Path) -> dict[str, int] | None:
    """Return up to where each sink is served; None if the damaged journal at `path` does not tell."""
    uri = f"file:{quote(str(path))}?mode=ro"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        found = dict(connection.execute("SELECT sink, seq FROM cursor"))
        if all(isinstance(seq, int) for seq in found.values()):
            return found
    return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
