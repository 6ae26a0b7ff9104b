"""File access below the root of the archive."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_otel.errors import Rejected
from forge_otel.sinks.files.access import (
    TEMPORARY,
    open_folder,
    read_file,
    remove_temporary,
    sorted_names,
    write_durably,
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """Descriptor of an empty folder."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_a_file_is_written_once_and_read(folder: int) -> None:
    """An existing file is never overwritten in place."""
    write_durably(folder, "a.txt", b"one")

    assert read_file(folder, "a.txt") == b"one"
    assert read_file(folder, "b.txt") is None
    with pytest.raises(FileExistsError):
        write_durably(folder, "a.txt", b"two")


def test_a_symbolic_link_is_neither_opened_nor_read(folder: int, tmp_path: Path) -> None:
    """A link could lead out of the root."""
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "file").touch()

    for name in ("link", "file"):
        with pytest.raises(Rejected, match="symbolic link"):
            open_folder(folder, name, make=False)
    assert read_file(folder, "passwd") is None
    assert sorted_names(tmp_path / "link") == []


def test_a_missing_folder_is_created_on_request(folder: int, tmp_path: Path) -> None:
    """Reading never creates one."""
    with pytest.raises(FileNotFoundError):
        open_folder(folder, "new", make=False)
    os.close(open_folder(folder, "new", make=True))

    assert sorted_names(tmp_path) == ["new"]
    assert sorted_names(tmp_path / "none") == []


def test_partial_files_are_removed(folder: int, tmp_path: Path) -> None:
    """Other files are kept."""
    for name in (f"{TEMPORARY}1", "a.txt"):
        write_durably(folder, name, b"x")

    remove_temporary(folder)

    assert sorted_names(tmp_path) == ["a.txt"]
