"""Retention of the archive in a folder."""

import asyncio
import fcntl
import os
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.sinks.builders import eventually, record

from forge_otel import Settings
from forge_otel._internal import periodic as _periodic
from forge_otel._runtime import components as _parts
from forge_otel.sinks.files import retention as files_retention
from forge_otel.sinks.files.sink import FileArchive

ARTIFACTS: dict[str, str | bytes] = {"component.tsx": "export {}", "quality-report.html": "<html>"}
NOW = datetime.now(UTC)
CUTOFF = NOW - timedelta(days=90)


def age(root: Path, component_id: str, days: float) -> None:
    """Set the time of the last write of a bundle."""
    written_s = (NOW - timedelta(days=days)).timestamp()
    for area in ("components", "reports"):
        folder = root / area / component_id
        for path in [*folder.iterdir(), folder]:
            os.utime(path, (written_s, written_s))


async def filled(archive: FileArchive, *names: str) -> None:
    """Store a bundle for each name."""
    await archive.deliver([record(component_id=name, artifacts=ARTIFACTS) for name in names])


def kept(root: Path) -> set[str]:
    """Ids of the components that are left."""
    return {path.parent.name for path in root.glob("*/*/*") if path.parts[-3] in {"components", "reports"}}


async def test_old_bundles_are_deleted_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest, artifacts, report and folders, over several batches; a second run deletes nothing."""
    monkeypatch.setattr(files_retention, "_BATCH", 2)
    old = [f"old-{number}" for number in range(5)]
    async with FileArchive(tmp_path) as archive:
        await filled(archive, *old, "young")
        for name in old:
            age(tmp_path, name, 91)
        age(tmp_path, "young", 89)

        assert await archive.expire(CUTOFF) == archive.expired["files"] == 15
        assert kept(tmp_path) == {"young"}
        assert not (tmp_path / "components" / "old-0").exists()
        assert await archive.expire(CUTOFF) == 0


async def test_a_bundle_is_as_old_as_its_youngest_file(tmp_path: Path) -> None:
    """One new file keeps a bundle, and a deleted bundle can be stored again."""
    async with FileArchive(tmp_path) as archive:
        await filled(archive, "button")
        age(tmp_path, "button", 100)
        await archive.deliver([record(component_id="button", artifacts={**ARTIFACTS, "component.tsx": "export {1}"})])
        assert await archive.expire(CUTOFF) == 0
        age(tmp_path, "button", 100)
        assert await archive.expire(CUTOFF) == 3
        await filled(archive, "button")
        assert await archive.read("components/button/component.tsx") == b"export {}"


async def test_a_bundle_that_is_being_written_is_kept(tmp_path: Path) -> None:
    """The deletion waits for the lock of the writer, and checks the age again."""
    async with FileArchive(tmp_path) as archive, FileArchive(tmp_path) as writing:
        await filled(archive, "button")
        age(tmp_path, "button", 100)
        with writing._locked("button"):
            expiring = asyncio.create_task(archive.expire(CUTOFF))
            await eventually(waits_for_a_lock)
            (tmp_path / "components" / "button" / "component.tsx").touch()
        assert await expiring == 0
    assert kept(tmp_path) == {"button"}


def waits_for_a_lock() -> bool:
    """Return whether a process waits for a lock of this one: "->" in the kernel's list."""
    locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("->" in line and f" {os.getpid()} " in line for line in locks)


async def test_one_process_deletes_at_a_time(tmp_path: Path) -> None:
    """Nothing is deleted while another process holds the lock; a cancellation releases it."""
    async with FileArchive(tmp_path) as archive:
        await filled(archive, "button")
        age(tmp_path, "button", 100)
        lock = (tmp_path / ".forge-locks" / "retention").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await archive.expire(CUTOFF) == 0
        lock.close()

        cancelled = asyncio.create_task(archive.expire(datetime.fromtimestamp(0, UTC)))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await eventually((tmp_path / ".forge-locks" / "retention").exists)
        assert await archive.expire(CUTOFF) == 3


async def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    """The target of a symbolic link in the archive is not deleted."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    os.utime(outside / "precious", (0, 0))
    os.utime(outside, (0, 0))
    root = tmp_path / "archive"
    async with FileArchive(root) as archive:
        await filled(archive, "button")
        (root / "components" / "link").symlink_to(outside)
        assert await archive.expire(CUTOFF) == 0
    assert (outside / "precious").exists()


async def test_the_default_retention_is_ninety_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive built from settings deletes older bundles soon after its start."""
    monkeypatch.setattr(_periodic.random, "uniform", lambda *_: 0)
    settings = Settings(archive_url=f"file://{tmp_path}", database_url=None, outbox_dir=None)
    async with FileArchive(tmp_path) as before:
        await filled(before, "old", "young")
        age(tmp_path, "old", 91)
    async with AsyncExitStack() as stack:
        archive = await stack.enter_async_context(_parts.build(settings).archive or pytest.fail("no archive"))
        await eventually(lambda: archive.expired["files"] == 3)
    assert kept(tmp_path) == {"young"}
