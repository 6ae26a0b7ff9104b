"""Dead letters: records that a sink rejected for good, in one SQLite file that all processes share."""

import contextlib
import os
import sqlite3
import threading
import time
from logging import getLogger
from pathlib import Path
from typing import Final

__all__ = ["FILE_NAME", "DeadLetters"]

_logger = getLogger(__name__)
FILE_NAME: Final = "dead-letters.sqlite"
_PAGE_BYTES: Final = 4096
_MAX_BYTES: Final = 64 * 2**20
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS dead_letter (
    id INTEGER PRIMARY KEY, sink TEXT NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL
)
"""


class DeadLetters:
    """Writer of the dead-letter file; a record for which there is no room is only logged.

    Args:
        directory: folder of the journal; None stores nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / FILE_NAME
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def add(self, sink: str, body: bytes, *, reason: str) -> None:
        """Store the encoded record `body` that `sink` rejected; an error of the disk is logged, not raised."""
        if self._path is None:
            return
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = _connect(self._path)
                self._connection.execute(
                    "INSERT INTO dead_letter (sink, at, reason, body) VALUES (?, ?, ?, ?)",
                    (sink, time.time(), reason, body),
                )
        except (sqlite3.Error, OSError) as exc:
            _logger.error("dead letter of sink %s could not be stored: %s", sink, exc)  # noqa: TRY400 - the disk is why

    def close(self) -> None:
        """Close the file, unless a write to it hangs."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        finally:
            self._lock.release()


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite would create the file with mode 0644.
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA max_page_count = {_MAX_BYTES // _PAGE_BYTES}")
        connection.execute(_SCHEMA)
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        raise
    return connection
