"""kill -9 at a random moment: what was acknowledged is in the database once and in the archive byte for byte.

Run as a program, this file is the service that gets killed: it offers records as fast as it can and writes the id of
each to its standard output once `Outbox.offer` has returned.
"""

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.sinks.builders import eventually, record

from forge_otel._internal.ids import new_id
from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.sinks.files.sink import FileArchive
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Sink

ROUNDS = 3
WORKERS = 2
CALLERS = 16


def service(directory: Path, url: str) -> Outbox:
    """Return the outbox of the service, for use before and after the kill."""
    sinks: list[Sink] = [SqlSink(url), FileArchive(directory / "archive")]
    return Outbox(sinks, OutboxOptions(directory=directory / "outbox", max_bytes=2**30, shutdown_timeout_s=5))


def contents(generation_id: str) -> dict[str, str | bytes]:
    """Return artifacts that contain the id of the generation."""
    return {"component.tsx": f"// {generation_id}\n" * 200, "screenshot.png": generation_id.encode() * 100}


async def serve(directory: Path, url: str) -> None:
    """Offer records until killed."""

    async def call() -> None:
        while True:
            name = new_id()
            await box.offer(record(id=name, component_id=name, artifacts=contents(name)))
            os.write(1, f"{name}\n".encode())
            await asyncio.sleep(0.02)

    async with service(directory, url) as box:
        await asyncio.gather(*(call() for _ in range(CALLERS)))


async def killed(directory: Path, url: str, *, after_s: float) -> list[str]:
    """Run the service, kill it `after_s` after its first answer, and return the ids that it had acknowledged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(directory),
        url,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    first = await process.stdout.readline()
    reading = asyncio.create_task(process.stdout.read())
    await asyncio.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    # The last line may be incomplete.
    return (first + await reading).decode().split("\n")[:-1]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite+aiosqlite:///{tmp_path}/forge.db"


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost(tmp_path: Path, url: str) -> None:
    """Two workers on one directory, killed again and again; the last start finds and delivers everything."""
    chance = random.Random()
    acknowledged: list[str] = []
    for _ in range(ROUNDS):
        rounds = await asyncio.gather(*(killed(tmp_path, url, after_s=chance.uniform(0, 0.5)) for _ in range(WORKERS)))
        acknowledged += [name for names in rounds for name in names]

    box = service(tmp_path, url)
    async with box:
        await eventually(
            lambda: box.stats().sinks["database"].is_up and not any(s.waiting for s in box.stats().sinks.values()),
            timeout_s=60,
        )
        async with SqlSink(url) as sink, sink.engine.connect() as connection:
            stored = [name for (name,) in await connection.execute(text("SELECT id FROM generations"))]
            counted = (
                await connection.execute(text("SELECT sum(requests) FROM cache_stats WHERE layer = 'L1'"))
            ).scalar_one()

    assert len(acknowledged) > CALLERS
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored)) == counted
    for name in stored:
        folder = tmp_path / "archive" / "components" / name
        for artifact, content in contents(name).items():
            expected = content.encode() if isinstance(content, str) else content
            assert (folder / artifact).read_bytes() == expected
        assert (folder / "manifest.json").exists()
    assert all(not stats.dropped for stats in box.stats().sinks.values())
    assert list((tmp_path / "outbox").glob("*.journal")) == []


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
