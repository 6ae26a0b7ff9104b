"""`forge-otel outbox` on the folder of a real outbox with a real database that rejects a record."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.sinks.builders import eventually, record

from forge_otel import cli
from forge_otel.database.migrate import migrate
from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Record

REFUSING = """
CREATE TRIGGER refusing BEFORE INSERT ON generations WHEN NEW.component_type = 'bad'
BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed'); END
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of outbox and database, set in the environment of the service."""
    monkeypatch.setenv("FORGE_OUTBOX_DIR", str(tmp_path / "outbox"))
    monkeypatch.setenv("FORGE_DATABASE_URL", database_url(tmp_path))
    monkeypatch.setenv("FORGE_ARCHIVE_URL", "")
    return tmp_path


def database_url(folder: Path) -> str:
    """Return the path of the database."""
    return f"sqlite+aiosqlite:///{folder}/forge.db"


def execute(folder: Path, statement: str) -> list[tuple[object, ...]]:
    """Run a statement in the database."""
    with closing(sqlite3.connect(folder / "forge.db")) as database, database:
        return database.execute(statement).fetchall()


def opened(folder: Path) -> Outbox:
    """Return the outbox of a service."""
    sink = SqlSink(database_url(folder))
    return Outbox([sink], OutboxOptions(directory=folder / "outbox", max_bytes=2**26, shutdown_timeout_s=5))


async def refused(folder: Path, records: Sequence[Record]) -> None:
    """Run a service whose database rejects some records, until every record is delivered or dropped."""
    await migrate(database_url(folder))
    execute(folder, REFUSING)
    async with opened(folder) as box:
        for item in records:
            await box.offer(item)
        await eventually(lambda: not box.stats().sinks["database"].waiting)


def take_away(folder: Path) -> None:
    """Give the database the version of a later release, which this release does not write to."""
    execute(folder, "CREATE TABLE forge_otel_version (version_num VARCHAR(32) NOT NULL)")
    execute(folder, "INSERT INTO forge_otel_version VALUES ('9999')")


def give_back(folder: Path) -> None:
    """Restore the version of the database."""
    (folder / "forge.db").unlink()


async def run(*arguments: str) -> int:
    """Run the command and return its exit code."""
    return await asyncio.to_thread(cli.main, ("outbox", *arguments))


async def test_a_dead_letter_is_listed_exported_and_sent_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rejected record is listed and exported, and stored by a retry after the database is repaired."""
    bad = record(component_type="bad", artifacts={"component.tsx": "export {}", "shot.png": b"\x89PNG"})
    await refused(folder, [record(), bad, record()])

    assert await run("list") == 0
    assert "1 dead letters of database: Rejected" in capsys.readouterr().out
    assert await run("export", "--letters") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["record"]["id"] == bad.id
    assert json.loads(line)["record"]["artifacts"] == {"component.tsx": "export {}", "shot.png": {"b64": "iVBORw=="}}

    assert await run("retry") == 1
    assert "1 rejected again or lost" in capsys.readouterr().out
    execute(folder, "DROP TRIGGER refusing")
    assert await run("retry", "--sink", "archive") == 0
    assert await run("retry", "--sink", "database") == 0
    assert execute(folder, f"SELECT count(*) FROM generations WHERE id = '{bad.id}'") == [(1,)]
    assert execute(folder, "SELECT count(*) FROM generations") == [(3,)]
    capsys.readouterr()
    assert await run("list") == 0
    assert "dead letters" not in capsys.readouterr().out


async def test_the_journal_of_a_living_service_is_listed_and_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal of a living process is listed with an owner, can be exported, and is skipped by a retry."""
    take_away(folder)
    items = [record(), record()]
    async with opened(folder) as box:
        for item in items:
            await box.offer(item)
        await eventually(lambda: bool(box.stats().sinks["database"].last_error))
        assert await run("list") == 0
        listed = capsys.readouterr().out
        assert "alive" in listed
        assert await run("export") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["id"] for line in lines] == [item.id for item in items]
        assert await run("retry", "--timeout", "0.5") == 0
        assert box.stats().sinks["database"].waiting == 2
    assert await run("list") == 0
    assert re.search(r"journal +none +2 ", capsys.readouterr().out)


async def test_records_of_a_dead_service_are_delivered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A retry delivers records after the end of their service."""
    take_away(folder)
    async with opened(folder) as box:
        await box.offer(record())
    assert await run("retry", "--timeout", "0.2") == 1
    assert "not everything was delivered within 0.2 s" in capsys.readouterr().err
    give_back(folder)
    assert await run("retry") == 0
    assert "database: 1 delivered, 0 waiting" in capsys.readouterr().out
    assert execute(folder, "SELECT count(*) FROM generations") == [(1,)]


async def test_a_damaged_journal_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damaged journals are listed, whether they were set aside already or not."""
    (folder / "outbox").mkdir()
    (folder / "outbox" / "a.journal").write_bytes(b"noise" * 1000)
    (folder / "outbox" / "b.journal.corrupt").write_bytes(b"noise")
    assert await run("list") == 0
    listed = capsys.readouterr().out
    assert "file is not a database" in listed
    assert "damaged, set aside" in listed


@pytest.mark.parametrize("directory", ["", "/nowhere/at/all"])
async def test_a_missing_folder_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], directory: str
) -> None:
    """A wrong setting ends with one sentence and an exit code."""
    monkeypatch.setenv("FORGE_OUTBOX_DIR", directory)
    assert await run("list") == 2
    assert "FORGE_OUTBOX_DIR" in capsys.readouterr().err
