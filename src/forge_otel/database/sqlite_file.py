"""The file of an SQLite database: detection of a deleted, replaced or corrupted file, and its replacement.

A corrupted file is renamed together with its `-wal` and `-shm` files, and never deleted, so that it can be recovered.
"""

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

__all__ = ["SqliteFile"]

_HEADER: Final = b"SQLite format 3\0"
_SIDES: Final = ("-wal", "-shm")

# Never closed: closing any descriptor of a file releases all locks of the process on it (POSIX, fcntl(2)), including
# those of SQLite. The next process that closes the database would then consider itself the last one, and delete the
# write-ahead log while this process still appends to it. One descriptor is opened per connect, which is rare.
_never_closed: Final[list[int]] = []


class SqliteFile:
    """One database file; its methods block on the disk.

    Args:
        path: absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode: int | None = None
        self._descriptor: int | None = None

    def remember(self) -> None:
        """Remember the identity of the file that is at the path now.

        Raises:
            OSError: the file is missing or unreadable.
        """
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        _never_closed.append(self._descriptor)
        self._inode = os.fstat(self._descriptor).st_ino

    def is_current(self) -> bool:
        """Return whether the remembered file is still at the path."""
        with suppress(FileNotFoundError):
            return self.path.stat().st_ino == self._inode
        return False

    def has_header(self) -> bool:
        """Return whether the file is empty or begins with the header of SQLite.

        Raises:
            OSError: the file cannot be read.
        """
        # An open connection has cached the first page, and would not notice that it was overwritten.
        return self._descriptor is None or os.pread(self._descriptor, len(_HEADER), 0) in {_HEADER, b""}

    def rename_corrupted(self) -> Path | None:
        """Rename the file to `….corrupt-<time>`; return its new path, or None where another process has renamed it.

        Raises:
            OSError: the file cannot be renamed.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            # The folder is locked, because a lock on the file itself would move with it to its new name.
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not self.is_current() and self._inode is not None:
                return None
            suffix = f".corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
            # Together: SQLite would apply a write-ahead log that stayed behind to the new file.
            for side in ("", *_SIDES):
                with suppress(FileNotFoundError):
                    file = self.path.with_name(self.path.name + side)
                    file.rename(file.with_name(file.name + suffix))
            return self.path.with_name(self.path.name + suffix)
        finally:
            os.close(folder)
