"""An SQLite file that is corrupted, deleted or replaced while a service writes to it."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.sinks.builders import eventually, record

from forge_otel import Forge, Settings
from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.sinks.sql import SqlSink


def stored(path: Path) -> set[str]:
    """Ids of the generations in a file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {id_ for (id_,) in database.execute("SELECT id FROM generations")}


def overwrite(path: Path, *, start: int = 0) -> None:
    """Write noise over the file and its log from byte `start` on."""
    noise = random.Random(0)
    for side in ("", "-wal"):
        file = path.with_name(path.name + side)
        if file.exists():
            with file.open("r+b") as content:
                content.seek(start)
                content.write(noise.randbytes(max(0, file.stat().st_size - start)))


async def test_a_corrupted_file_is_replaced(tmp_path: Path) -> None:
    """The queued records are written to a new file, and the old file is renamed."""
    path = tmp_path / "forge.db"
    sink = SqlSink(f"sqlite+aiosqlite:///{path}")
    async with Outbox([sink], OutboxOptions(directory=tmp_path / "box", max_bytes=2**26, shutdown_timeout_s=5)) as box:
        for _ in range(50):
            await box.offer(record())
        await eventually(lambda: box.stats().sinks["database"].delivered == 50)
        overwrite(path)
        later = [record() for _ in range(200)]
        for item in later:
            await box.offer(item)
        await eventually(lambda: not box.stats().sinks["database"].waiting, timeout_s=20)
        assert box.stats().sinks["database"].dropped == {}

    assert len(sink.damaged_files) == 1
    assert sink.damaged_files[0].name.startswith("forge.db.corrupt-")
    assert sink.damaged_files[0].exists()
    # Records in the old file are lost with it; queued records are not.
    assert stored(path) <= {item.id for item in later}
    assert later[-1].id in stored(path)


@pytest.mark.parametrize("start", [0, 4096])
async def test_a_service_starts_with_a_corrupted_file(tmp_path: Path, start: int) -> None:
    """With a corrupted header, and with corruption after the first page."""
    path = tmp_path / "forge.db"
    async with SqlSink(f"sqlite+aiosqlite:///{path}") as sink:
        await sink.deliver([record()])
    overwrite(path, start=start)
    size_bytes = path.stat().st_size
    item = record()
    async with SqlSink(f"sqlite+aiosqlite:///{path}") as sink:
        await sink.deliver([item])

    assert stored(path) == {item.id}
    assert sink.damaged_files[0].stat().st_size == size_bytes


async def test_a_deleted_file_is_created_again(tmp_path: Path) -> None:
    """The next batch is written to a file at the path, not to the deleted one."""
    path = tmp_path / "forge.db"
    async with SqlSink(f"sqlite+aiosqlite:///{path}") as sink:
        await sink.deliver([record()])
        for side in ("", "-wal", "-shm"):
            path.with_name(path.name + side).unlink(missing_ok=True)
        item = record()
        await sink.deliver([item])
        await sink.ping()

    assert stored(path) == {item.id}
    assert sink.damaged_files == []


async def test_two_workers_rename_a_file_once(tmp_path: Path) -> None:
    """The second worker finds the new file and keeps it."""
    path = tmp_path / "forge.db"
    url = f"sqlite+aiosqlite:///{path}"
    async with SqlSink(url) as one, SqlSink(url) as other:
        await asyncio.gather(*(sink.deliver([record()]) for sink in (one, other)))
        overwrite(path)
        items = [record(), record()]
        for sink, item in zip((one, other), items, strict=True):
            await sink.deliver([item])

        assert len([*tmp_path.glob("forge.db.corrupt-*")]) == len(one.damaged_files) + len(other.damaged_files) == 1
    assert stored(path) == {item.id for item in items}


async def test_health_names_the_file(tmp_path: Path) -> None:
    """The health report names the renamed file."""
    path = tmp_path / "forge.db"
    path.write_bytes(b"no database" * 100)
    settings = Settings(database_url=f"sqlite+aiosqlite:///{path}", outbox_dir=str(tmp_path / "box"), archive_url=None)
    async with Forge(settings) as forge:
        await eventually(lambda: "database:file" in forge.operations.health_report()["checks"])
        [check] = forge.operations.health_report()["checks"]["database:file"]
    assert "forge.db.corrupt-" in check["output"]


def stored_elsewhere(path: Path) -> set[str]:
    """Ids of the generations that another process reads before it closes the database."""
    program = (
        "import sqlite3, sys; database = sqlite3.connect(sys.argv[1]); "
        "print(*(row[0] for row in database.execute('SELECT id FROM generations'))); database.close()"
    )
    answer = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


async def test_a_reader_that_closes_the_database_loses_nothing(tmp_path: Path) -> None:
    """Records that are stored after another process has closed the database are visible to the next one."""
    path = tmp_path / "forge.db"
    items = [record() for _ in range(6)]
    async with SqlSink(f"sqlite+aiosqlite:///{path}") as sink:
        for number, item in enumerate(items, 1):
            await sink.deliver([item])
            assert await asyncio.to_thread(stored_elsewhere, path) == {one.id for one in items[:number]}
    assert stored(path) == {item.id for item in items}
