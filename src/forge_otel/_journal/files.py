"""The files of a segment and who owns them: the lock beside a journal, and how the files come and go."""

import fcntl
import os
from pathlib import Path
from typing import Final

__all__ = ["JOURNALS", "SUFFIX", "lock", "remove", "set_aside", "sync_folder"]

SUFFIX: Final = ".journal"
JOURNALS: Final = f"*{SUFFIX}"
"""Pattern of the files in a journal's folder."""

_PARTS: Final = ("-wal", "-shm", "")


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock of `path`, or None if a living process has it or removed the file."""
    beside = _lock_path(path)
    descriptor = os.open(beside, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our open and our lock the owner may have removed both files: then this lock is on nothing.
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
    """Remove a journal that is ours, and give it up.

    Args:
        held: descriptor of its lock.
    """
    for suffix in _PARTS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _lock_path(path).unlink(missing_ok=True)
    os.close(held)


def set_aside(path: Path, *, held: int) -> Path:
    """Rename a journal that is ours, so that nobody adopts it, and give it up; return its new name.

    Args:
        held: descriptor of its lock.
    """
    for suffix in _PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(part.with_name(f"{part.name}.corrupt"))
    _lock_path(path).unlink(missing_ok=True)
    os.close(held)
    return path.with_name(f"{path.name}.corrupt")


def sync_folder(directory: Path) -> None:
    """Make the new name in `directory` outlive a power cut; SQLite does not know that the file is new."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
