"""Files and folders of the archive, opened one below the other and never through a symbolic link."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from forge_otel.errors import Rejected

__all__ = ["TEMPORARY", "content_of", "names", "step", "tidy", "write_through"]

TEMPORARY: Final = ".forge-tmp-"
"""What the names of files begin with that are being written."""

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def step(folder: int, name: str, *, make: bool) -> int:
    """Open the folder `name` in a folder; raise `Rejected` where something else is in its place."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except OSError as exc:
        # A link to a folder is ENOTDIR with O_DIRECTORY on Linux, ELOOP elsewhere.
        if exc.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise Rejected(f"{name!r} in the archive is a symbolic link or a file where a folder has to be") from exc
        raise


def content_of(folder: int, name: str) -> bytes | None:
    """Return what the regular file `name` holds, None if there is none."""
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


def write_through(folder: int, name: str, content: bytes) -> None:
    """Make the file `name` in a folder, on the disk itself when this returns."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def tidy(folder: int) -> None:
    """Remove what a killed process left half written in a folder."""
    for name in os.listdir(folder):
        if name.startswith(TEMPORARY):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)


def names(folder: Path) -> list[str]:
    """Return the sorted names in a folder; none if it is not there, or a symbolic link."""
    if folder.is_symlink():
        return []
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
