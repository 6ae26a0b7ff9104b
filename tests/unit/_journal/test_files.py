"""Locks and names of journal files."""

import os
from pathlib import Path

from forge_otel._journal import files


def test_a_lock_is_held_by_one_owner(tmp_path: Path) -> None:
    """A second attempt fails until the first descriptor is closed, as it is when a process dies."""
    path = tmp_path / "a.journal"
    held = files.lock(path)
    assert held is not None

    assert files.lock(path) is None
    os.close(held)
    again = files.lock(path)
    assert again is not None
    os.close(again)


def test_removal_takes_every_file_of_a_journal(tmp_path: Path) -> None:
    """Journal, log, index of the log and lock are removed; neighbours stay."""
    path = tmp_path / "a.journal"
    for name in ("a.journal", "a.journal-wal", "a.journal-shm", "b.journal"):
        (tmp_path / name).touch()
    held = files.lock(path)
    assert held is not None

    files.remove(path, held=held)

    assert [found.name for found in tmp_path.iterdir()] == ["b.journal"]


def test_a_file_that_is_set_aside_is_no_journal_any_more(tmp_path: Path) -> None:
    """A damaged journal keeps its content under a name that adoption does not match."""
    path = tmp_path / "a.journal"
    path.write_bytes(b"damaged")
    held = files.lock(path)
    assert held is not None

    kept = files.set_aside(path, held=held)

    assert kept.read_bytes() == b"damaged"
    assert list(tmp_path.glob(files.JOURNALS)) == []
