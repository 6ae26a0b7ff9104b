"""File access below the root of the archive, one folder at a time, so that no symbolic link is followed."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from forge_otel.errors import Rejected

__all__ = ["TEMPORARY", "open_folder", "read_file", "remove_temporary", "sorted_names", "write_durably"]

TEMPORARY: Final = ".forge-tmp-"
"""Prefix of the names of files that are being written."""

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(parent: int, name: str, *, make: bool) -> int:
    """Open the folder `name` and return its descriptor.

    Args:
        parent: descriptor of the folder that contains it.
        name: one path segment.
        make: create the folder where it is missing.

    Raises:
        Rejected: `name` is a symbolic link or a file.
    """
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    except OSError as exc:
        # A symbolic link to a folder is ENOTDIR with O_DIRECTORY on Linux, ELOOP elsewhere.
        if exc.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise Rejected(f"{name!r} in the archive is a symbolic link or a file, not a folder") from exc
        raise


def read_file(folder: int, name: str) -> bytes | None:
    """Return the content of the regular file `name`; None where it is missing or a symbolic link."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return None
        raise
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def write_durably(folder: int, name: str, content: bytes) -> None:
    """Create the file `name` and flush it to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remove_temporary(folder: int) -> None:
    """Remove the partial files that a killed process left in a folder."""
    for name in os.listdir(folder):
        if name.startswith(TEMPORARY):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)


def sorted_names(folder: Path) -> list[str]:
    """Return the sorted names in a folder; empty where it is missing or a symbolic link."""
    if folder.is_symlink():
        return []
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
