"""Recovery of the intact entries of a damaged segment, and the count of the lost ones."""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from forge_otel._journal.sqlite_recovery import is_truncated, recover

__all__ = ["IsIntact", "LogFiles", "Recovered", "carve", "read_cursors", "recover_file"]

# Each entry has some hundred bytes at least.
_MAX_ENTRIES_ON_A_PAGE: Final = 8

IsIntact = Callable[[bytes], bool]
"""Returns whether a body is complete and unchanged; the encoder of the bodies supplies it."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Result of a recovery.

    Args:
        rows: sequence number, Unix time in seconds and body of each intact entry, in order.
        lost: number of entries that are known to be missing; 1 if only the fact of a loss is known.
    """

    rows: list[tuple[int, float, bytes]]
    lost: int


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Write-ahead log and its shared-memory index as a dead process left them."""

    wal: bytes = b""
    shm: bytes = b""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the log files of the journal `path`; call this before SQLite opens it, which rewrites them."""
        return cls(*(_content(path.with_name(f"{path.name}{suffix}")) for suffix in ("-wal", "-shm")))


def recover_file(file: bytes, log: LogFiles, *, cursors: Mapping[str, int] | None, is_intact: IsIntact) -> Recovered:
    """Return the intact entries of a damaged journal and of its log; count those that a sink still needs.

    Args:
        file: content of the journal.
        log: its log files.
        cursors: delivery cursor of each sink; None where they cannot be read.
        is_intact: checks a body.
    """
    acknowledged = None if cursors is None else min(cursors.values(), default=0)
    recovered = carve(file, log.wal, after=0, acknowledged=acknowledged, is_intact=is_intact)
    is_short = is_truncated(file) or not recovered.rows
    return Recovered(recovered.rows, max(recovered.lost, int(is_short)))


def carve(file: bytes, wal: bytes, *, after: int, acknowledged: int | None, is_intact: IsIntact) -> Recovered:
    """Read the entries with a number above `after` page by page, and count the gaps in their numbers.

    Args:
        file: content of the journal.
        wal: content of its write-ahead log.
        after: sequence number of the last entry that is not needed.
        acknowledged: number up to which all sinks are served; None where that is unknown.
        is_intact: checks a body.
    """
    found = recover(file, wal, is_intact=is_intact)
    rows = [(seq, *found.rows[seq]) for seq in sorted(found.rows) if seq > after]
    # Entries are numbered without gaps, so a missing number is a lost entry.
    first = acknowledged + 1 if acknowledged is not None else min(found.rows, default=1)
    last = max([first - 1, *(seq for seq, *_ in rows)])
    for seq in sorted(found.broken):
        # A number far beyond the last one was itself damaged.
        if last < seq <= last + _MAX_ENTRIES_ON_A_PAGE:
            last = seq
    return Recovered(rows, last - first + 1 - sum(seq >= first for seq, *_ in rows))


def read_cursors(path: Path) -> dict[str, int] | None:
    """Return the delivery cursors in the damaged journal `path`, or None if they cannot be read."""
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
