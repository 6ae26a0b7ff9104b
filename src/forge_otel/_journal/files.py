"""Files of a segment on disk: journal, write-ahead log and lock, from creation to removal."""

import fcntl
import os
from pathlib import Path
from typing import Final

__all__ = ["JOURNALS", "SUFFIX", "lock", "remove", "set_aside", "sync_folder"]

SUFFIX: Final = ".journal"
JOURNALS: Final = f"*{SUFFIX}"
"""Glob pattern of the journals in a folder."""

_PARTS: Final = ("-wal", "-shm", "")


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock of the journal `path`, or None if a living process holds it."""
    lock_path = _lock_path(path)
    descriptor = os.open(lock_path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our open and our lock the owner may have removed both files; then this lock protects nothing.
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def remove(path: Path, *, held: int) -> None:
    """Remove the files of a journal and release its lock.

    Args:
        path: the journal.
        held: descriptor of its lock.
    """
    for suffix in _PARTS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _lock_path(path).unlink(missing_ok=True)
    os.close(held)


def set_aside(path: Path, *, held: int) -> Path:
    """Rename a damaged journal to `….corrupt`, release its lock, and return its new path.

    Args:
        path: the journal.
        held: descriptor of its lock.
    """
    # Under the new name no process adopts it, and an operator can still examine it.
    for suffix in _PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(part.with_name(f"{part.name}.corrupt"))
    _lock_path(path).unlink(missing_ok=True)
    os.close(held)
    return path.with_name(f"{path.name}.corrupt")


def sync_folder(directory: Path) -> None:
    """Flush the directory entries of `directory` to the disk."""
    # SQLite flushes the file but not the directory entry of a file that it did not create itself.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
