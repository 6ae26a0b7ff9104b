"""The file of an SQLite database: whether it is still the one that was opened, whether it is damaged, and its removal.

A damaged file is renamed, with its log and its index beside it, and never deleted: somebody may want to look at it.
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

# Never closed: closing any descriptor of a file takes all locks of the process on it along (POSIX, fcntl(2)), those of
# SQLite too. Then the next process that leaves the database believes that it is the last one, and deletes the log into
# which we go on writing. One is opened whenever a database is connected, which is seldom.
_open_for_good: list[int] = []


class SqliteFile:
    """One database file; its methods touch the disk.

    Args:
        path: absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode: int | None = None
        self._descriptor: int | None = None

    def remember(self) -> None:
        """Take note of which file is open now.

        Raises:
            OSError: there is none.
        """
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        _open_for_good.append(self._descriptor)
        self._inode = os.fstat(self._descriptor).st_ino

    def is_there(self) -> bool:
        """Whether the path still leads to the file that was opened, and not to another one or to nothing."""
        with suppress(FileNotFoundError):
            return self.path.stat().st_ino == self._inode
        return False

    def is_whole(self) -> bool:
        """Whether it begins like a database; a connection that has read that page would not notice.

        Raises:
            OSError: it cannot be read.
        """
        return self._descriptor is None or os.pread(self._descriptor, len(_HEADER), 0) in {_HEADER, b""}

    def set_aside(self) -> Path | None:
        """Rename the file; return its new path, or None where another process was quicker.

        Raises:
            OSError: it cannot be renamed.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not self.is_there() and self._inode is not None:
                return None
            suffix = f".corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
            for side in ("", *_SIDES):
                with suppress(FileNotFoundError):
                    file = self.path.with_name(self.path.name + side)
                    file.rename(file.with_name(file.name + suffix))
            return self.path.with_name(self.path.name + suffix)
        finally:
            os.close(folder)
