"""Operators' view of an outbox folder: its journals and dead letters, read while services use them."""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from forge_otel._journal.files import JOURNALS
from forge_otel._journal.segments import DiskSegment
from forge_otel.errors import ConfigurationError, NotFound
from forge_otel.outbox.dead_letters import FILE_NAME

__all__ = ["DeadLetter", "JournalFile", "dead_letters", "journals", "requeue", "waiting"]

_LOCKS: Final = Path("/proc/locks")
_BUSY_TIMEOUT_S: Final = 5.0
# A file may still hold records that every sink has acknowledged.
_UNACKNOWLEDGED: Final = "WHERE seq > (SELECT coalesce(min(seq), 0) FROM cursor)"
_BODIES: Final = f"SELECT body FROM record {_UNACKNOWLEDGED} ORDER BY seq"  # noqa: S608 - constants
_SUMMARY: Final = f"SELECT count(*), min(at) FROM record {_UNACKNOWLEDGED}"  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFile:
    """One file of a journal.

    Args:
        is_owned: whether a living process holds its lock; None where the system has no list of locks.
        records: number of records that some sink still needs.
        waiting: sink to the number of records that it still needs, for each sink with a cursor in the file.
        oldest_age_s: age of the oldest record in seconds, 0 in an empty file.
        trouble: why it cannot be read; empty if it can.
    """

    path: Path
    is_owned: bool | None
    size_bytes: int
    records: int = 0
    waiting: Mapping[str, int]
    oldest_age_s: float = 0.0
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that a sink rejected for good.

    Args:
        number: its id in the file.
        at_s: Unix time of the rejection in seconds.
        body: the record, encoded by `forge_otel.outbox.codec`.
    """

    number: int
    sink: str
    at_s: float
    reason: str
    body: bytes


def journals(directory: Path) -> list[JournalFile]:
    """Return the journals in `directory`, oldest first, then the damaged ones that were set aside."""
    owned = _locked_inodes()
    found = [_inspect(path, owned) for path in sorted(directory.glob(JOURNALS))]
    return found + [
        JournalFile(path=path, is_owned=False, size_bytes=path.stat().st_size, waiting={}, trouble="damaged, set aside")
        for path in sorted(directory.glob(f"{JOURNALS}.corrupt"))
    ]


def waiting(directory: Path) -> Iterator[bytes]:
    """Iterate over the encoded records that wait in the journals, oldest file first.

    Raises:
        OSError: a journal cannot be read.
    """
    for path in sorted(directory.glob(JOURNALS)):
        try:
            with closing(_open(path)) as database:
                yield from (body for (body,) in database.execute(_BODIES))
        except sqlite3.Error as exc:
            raise OSError(f"the journal {path.name} cannot be read: {exc}") from exc


def dead_letters(directory: Path) -> list[DeadLetter]:
    """Return the dead letters, oldest first.

    Raises:
        OSError: their file cannot be read.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return []
    try:
        with closing(_open(path)) as database:
            rows = database.execute("SELECT id, sink, at, reason, body FROM dead_letter ORDER BY id").fetchall()
    except sqlite3.Error as exc:
        raise OSError(f"the dead letters cannot be read: {exc}") from exc
    return [DeadLetter(number=row[0], sink=row[1], at_s=row[2], reason=row[3], body=row[4]) for row in rows]


def requeue(directory: Path, chosen: Iterable[DeadLetter], *, sinks: Iterable[str]) -> int:
    """Put dead letters back into the journal, each for the sink that rejected it; the next start delivers them.

    Args:
        directory: folder of the journal.
        chosen: the dead letters.
        sinks: names of all sinks of the service; only the one that rejected a record gets it again.

    Returns:
        The number of records that were put back.

    Raises:
        ConfigurationError: a dead letter is for a sink that the service does not have.
        NotFound: a dead letter was deleted meanwhile.
        OSError, sqlite3.Error: the segment cannot be written.
    """
    by_sink: dict[str, list[DeadLetter]] = {}
    for letter in chosen:
        by_sink.setdefault(letter.sink, []).append(letter)
    known = set(sinks)
    if unknown := sorted(set(by_sink) - known):
        raise ConfigurationError(
            [f"there is no sink {name!r}; configure it, or skip its dead letters" for name in unknown]
        )
    for sink, group in by_sink.items():
        segment = DiskSegment.create(directory)
        rows = segment.append([(letter.at_s, letter.body) for letter in group])
        segment.index.extend(rows)
        segment.save(dict.fromkeys(known, rows[-1].seq) | {sink: 0}, 0)
        segment.close()
        # Deleted last: after a crash before this line they are delivered twice, and sinks are idempotent.
        _delete(directory / FILE_NAME, [letter.number for letter in group])
    return sum(map(len, by_sink.values()))


def _inspect(path: Path, owned: frozenset[int] | None) -> JournalFile:
    size_bytes = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    lock = path.with_suffix(".lock")
    is_owned = None if owned is None else lock.exists() and lock.stat().st_ino in owned
    try:
        with closing(_open(path)) as database:
            ((records, oldest_at_s),) = database.execute(_SUMMARY)
            lag = "SELECT sink, (SELECT count(*) FROM record WHERE record.seq > cursor.seq) FROM cursor ORDER BY sink"
            waiting_by_sink = dict(database.execute(lag).fetchall())
    except sqlite3.Error as exc:
        return JournalFile(path=path, is_owned=is_owned, size_bytes=size_bytes, waiting={}, trouble=str(exc))
    return JournalFile(
        path=path,
        is_owned=is_owned,
        size_bytes=size_bytes,
        records=records,
        waiting=waiting_by_sink,
        oldest_age_s=0.0 if oldest_at_s is None else max(0.0, time.time() - oldest_at_s),
    )


def _locked_inodes() -> frozenset[int] | None:
    """Return the inodes of all locked files, or None where the system has no list of locks."""
    # Trying the lock instead could make a service that starts at this moment fail to adopt the journal.
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return frozenset(int(line.split()[5].rpartition(":")[2]) for line in lines if " FLOCK " in line)


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S)
    database.execute("PRAGMA query_only = ON")
    return database


def _delete(path: Path, numbers: list[int]) -> None:
    with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        delete = "DELETE FROM dead_letter WHERE id = ?"
        deleted = sum(database.execute(delete, (number,)).rowcount for number in numbers)
        database.execute("COMMIT")
    if deleted != len(numbers):
        raise NotFound(f"{len(numbers) - deleted} of the dead letters were deleted by another process meanwhile")
