"""Inter-process locks on files (`flock`), which the operating system releases when the process dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["lock", "try_lock"]


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to take an inter-process lock and yield whether it was acquired; it is held until the block ends.

    Args:
        path: the lock file; created with its folder where it is missing.

    Raises:
        OSError: the file cannot be created.
    """
    with _opened(path) as descriptor:
        yield _is_acquired(descriptor)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Wait for an inter-process lock and hold it until the block ends.

    Args:
        path: the lock file; created with its folder where it is missing.

    Raises:
        OSError: the file cannot be created.
    """
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        # Closing the descriptor releases the lock.
        os.close(descriptor)


def _is_acquired(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
