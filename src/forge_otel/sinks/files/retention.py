"""Retention of the archive in a folder: deletes the bundles that were last written before a cutoff.

The age of a bundle is that of its youngest file, so a bundle that was written again is kept, and a partial bundle of a
killed process is deleted too. S3 does the same by lifecycle rules.
"""

import os
import stat
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from forge_otel._internal.file_lock import try_lock
from forge_otel.sinks.archive import AREAS

__all__ = ["sweep"]

_BATCH: Final = 50

# Deletes a component if the predicate holds under the component's lock; returns the number of deleted files.
Delete = Callable[[str, Callable[[], bool]], int]


def sweep(root: Path, *, before_s: float, lock: Path, delete: Delete) -> Generator[int, None, None]:
    """Scan the archive once, synchronously; yield the number of deleted files after every few bundles.

    Args:
        root: of the archive.
        before_s: cutoff in Unix time.
        lock: lock file; nothing is deleted while another process holds it.
        delete: deletes a component.
    """
    with try_lock(lock) as is_acquired:
        names = _components(root) if is_acquired else iter(())
        while some := list(islice(names, _BATCH)):
            yield sum(_delete_if_old([root / area / name for area in AREAS], before_s, delete) for name in some)


def _delete_if_old(found: list[Path], before_s: float, delete: Delete) -> int:
    # Renaming a file into a folder changes the folder, so a folder is never older than its files.
    if any(_written_s(folder) >= before_s for folder in found):
        return 0
    # Checked again under the lock of the component, because a writer may have renewed the bundle meanwhile.
    return delete(found[0].name, lambda: _youngest_s(found) < before_s)


def _components(root: Path) -> Iterator[str]:
    for folder in (root / area for area in AREAS):
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
    # Anything but a file or a folder is not ours.
    return status.st_mtime if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) else 0.0
