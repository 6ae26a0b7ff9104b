"""The archive in a folder: atomic files, complete bundles, and no access outside the root."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sinks.builders import record

from forge_otel._runtime.plugins import load
from forge_otel.errors import NotFound, Rejected
from forge_otel.sinks.archive import Archive, Bundle
from forge_otel.sinks.files.sink import FileArchive, open_url
from forge_otel.testing.contracts.archive_contract import ArchiveContract
from forge_otel.types import Record

ARTIFACTS: dict[str, str | bytes] = {
    "component.tsx": "export {}",
    "screenshot.png": b"\x89PNG\x00",
    "quality-report.html": "<html>",
}


def files(root: Path) -> dict[str, bytes]:
    """Content of every archived file by its key."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.relative_to(root).parts[0].startswith(".")
    }


class TestFileArchive(ArchiveContract):
    """The contract of archives."""

    @pytest.fixture
    async def archive(self, tmp_path: Path) -> AsyncIterator[FileArchive]:
        """An archive in an empty folder."""
        async with FileArchive(tmp_path / "archive") as opened:
            yield opened


def written(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return each file with its inode, size and time of the last write; reading changes its access time only."""
    stats = {path: path.stat() for path in folder.rglob("*.*")}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


async def test_a_repeated_delivery_changes_nothing(tmp_path: Path) -> None:
    """Neither the same record nor a cache hit with the same contents writes a file."""
    item = record(artifacts=ARTIFACTS)
    async with FileArchive(tmp_path) as archive:
        await archive.deliver([item])
        before = written(tmp_path)
        await archive.deliver([item, record(artifacts=ARTIFACTS)])

    assert written(tmp_path) == before


async def test_a_missing_file_is_restored(tmp_path: Path) -> None:
    """The next delivery of the same contents writes a deleted file again."""
    async with FileArchive(tmp_path) as archive:
        await archive.deliver([record(artifacts=ARTIFACTS)])
        (tmp_path / "components/button-1/component.tsx").unlink()
        await archive.deliver([record(artifacts=ARTIFACTS)])

        assert await archive.read("components/button-1/component.tsx") == b"export {}"


@given(st.text(max_size=30) | st.sampled_from(["components/../../etc/passwd", "components/a/../b", "a/b/c"]))
def test_no_key_reads_outside_the_archive(key: str) -> None:
    """Any other key than that of an archived file is not found."""
    archive = FileArchive(Path(__file__).parent)

    with pytest.raises(NotFound):
        archive._read(key)


@pytest.mark.parametrize("path", ["components", "components/button-1"])
async def test_a_folder_that_is_a_symbolic_link_is_rejected(tmp_path: Path, path: str) -> None:
    """Nothing is written, read, listed or deleted through it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "button-1").mkdir(parents=True)
    (outside / "button-1" / "component.tsx").write_text("secret")
    (outside / "component.tsx").write_text("secret")
    (root / path).parent.mkdir(parents=True)
    (root / path).symlink_to(outside, target_is_directory=True)

    async with FileArchive(root) as archive:
        with pytest.raises(Rejected, match="symbolic link"):
            await archive.deliver([record(artifacts=ARTIFACTS)])
        with pytest.raises(NotFound):
            await archive.read("components/button-1/component.tsx")
        assert [found async for found in archive.list()] == []
        assert await archive.delete("button-1") == 0

    assert (outside / "component.tsx").read_text() == "secret"


async def test_a_file_that_is_a_symbolic_link_is_replaced(tmp_path: Path) -> None:
    """The link is replaced by the file, and its target is unchanged."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "root/components/button-1"
    folder.mkdir(parents=True)
    (folder / "component.tsx").symlink_to(secret)

    async with FileArchive(tmp_path / "root") as archive:
        with pytest.raises(NotFound):
            await archive.read("components/button-1/component.tsx")
        await archive.deliver([record(artifacts=ARTIFACTS)])

    assert secret.read_text() == "secret"
    assert (folder / "component.tsx").read_text() == "export {}"


def archived_names() -> list[str]:
    """Names in the folder of the component."""
    return ["component.tsx", "screenshot.png", "manifest.json"]


async def test_readers_see_complete_files_during_a_replacement(tmp_path: Path) -> None:
    """Each read returns one of the contents completely."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    contents = [letter * 300_000 for letter in "abcdef"]
    versions = [
        record(artifacts={"component.tsx": text}, created_at=start + timedelta(seconds=n))
        for n, text in enumerate(contents * 3)
    ]
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        path = tmp_path / "components/button-1/component.tsx"
        while not done.is_set():
            if path.exists():
                seen.add(path.read_bytes())

    async with FileArchive(tmp_path) as archive:
        looking = asyncio.create_task(asyncio.to_thread(look))
        await archive.deliver(versions)
        done.set()
        await looking

    assert seen <= {text.encode() for text in contents}
    assert seen


async def test_partial_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """They are not listed, and the next delivery deletes them."""
    folder = tmp_path / "components/button-1"
    folder.mkdir(parents=True)
    (folder / ".forge-tmp-0000").write_text("half")

    async with FileArchive(tmp_path) as archive:
        assert [found async for found in archive.list()] == []
        await archive.deliver([record(artifacts=ARTIFACTS)])

    assert sorted(path.name for path in folder.iterdir()) == sorted(archived_names())


async def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    """A folder at the path of a file fails the delivery, and no partial file remains."""
    (tmp_path / "components/button-1/component.tsx").mkdir(parents=True)

    async with FileArchive(tmp_path) as archive:
        with pytest.raises(OSError, match="directory"):
            await archive.deliver([record(artifacts=ARTIFACTS)])

    assert files(tmp_path) == {}


async def test_ping_checks_that_the_folder_is_writable(tmp_path: Path) -> None:
    """A file at the path of the folder is an error."""
    async with FileArchive(tmp_path / "new") as archive:
        await archive.ping()
    (tmp_path / "file").touch()
    async with FileArchive(tmp_path / "file") as archive:
        with pytest.raises(OSError, match="exists"):
            await archive.ping()

    assert files(tmp_path / "new") == {}


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("file://./.forge/artifacts", ".forge/artifacts"),
        ("file:///var/lib/forge", "/var/lib/forge"),
        ("file://localhost/var/lib/forge", "/var/lib/forge"),
        ("file://./with%20space", "with space"),
    ],
)
def test_a_url_names_a_folder(url: str, root: str) -> None:
    """Absolute, or relative to the working directory at the start."""
    assert open_url(url).root == Path.cwd() / root
    assert load("sinks", url) is open_url


def test_the_folder_is_an_archive(tmp_path: Path) -> None:
    """It implements the Protocol of archives."""
    archive: Archive = FileArchive(tmp_path)

    assert callable(archive.deliver)


def test_the_manifest_is_canonical() -> None:
    """The same contents give the same bytes in any order of the artifacts."""
    one = record(artifacts=ARTIFACTS)
    other = Record(**{name: getattr(one, name) for name in one.__slots__} | {"artifacts": reordered(ARTIFACTS)})

    assert Bundle.of(one).manifest == Bundle.of(other).manifest


def reordered(artifacts: dict[str, str | bytes]) -> dict[str, str | bytes]:
    """The same artifacts in reverse order."""
    return dict(reversed(artifacts.items()))
