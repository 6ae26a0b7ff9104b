"""Deletes the bundles in a folder that are older than they are to be kept; S3 does that by itself, by lifecycle rules.

A bundle is as old as its youngest file: one that was written again is young again, and one that a killed process left
half written goes as well. Each is looked at once more under the lock that its writer holds, so that none is deleted
while it is written. Nothing here awaits anything: the archive runs it in its thread, a few bundles at a time.
"""

import os
import stat
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from forge_otel._internal.file_lock import try_lock
from forge_otel.sinks.archive import ROOMS

__all__ = ["sweep"]

_AT_ONCE: Final = 50

# Removes a component if the question says so under the component's lock; returns how many files that were.
Delete = Callable[[str, Callable[[], bool]], int]


def sweep(root: Path, *, before_s: float, lock: Path, delete: Delete) -> Generator[int, None, None]:
    """Go through the archive once; yield after every few bundles how many files were deleted.

    Args:
        root: of the archive.
        before_s: Unix time; what was last written before goes.
        lock: a file by which processes agree on who does it; nothing is done while another process is at it.
        delete: removes a component.
    """
    with try_lock(lock) as is_alone:
        names = _components(root) if is_alone else iter(())
        while some := list(islice(names, _AT_ONCE)):
            yield sum(_delete_if_old([root / room / name for room in ROOMS], before_s, delete) for name in some)


def _delete_if_old(found: list[Path], before_s: float, delete: Delete) -> int:
    # A folder changes with every file that is renamed into it, and so is never older than they are.
    if any(_written_s(folder) >= before_s for folder in found):
        return 0
    return delete(found[0].name, lambda: _youngest_s(found) < before_s)


def _components(root: Path) -> Iterator[str]:
    for folder in (root / room for room in ROOMS):
        if not folder.is_symlink() and folder.is_dir():
            with os.scandir(folder) as entries:
                yield from (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _youngest_s(found: list[Path]) -> float:
    written = [0.0]
    for folder in found:
        if folder.is_dir() and not folder.is_symlink():
            written += [_written_s(path) for path in folder.iterdir()]
    return max(written)


def _written_s(path: Path) -> float:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0.0
    # What is neither file nor folder is not ours and says nothing.
    return status.st_mtime if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) else 0.0
