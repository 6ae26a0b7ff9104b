"""Migrations of empty and filled databases, by one worker and by several, beside the tables of a host."""

import asyncio
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, DateTime, MetaData, bindparam, inspect, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.integration.database.tables import GENERATIONS, rows
from tests.unit.sinks.builders import record

from forge_otel.database import TABLES, VERSION_TABLE, include_object
from forge_otel.database.engine import create_engine
from forge_otel.database.migrate import current, migrate
from forge_otel.database.models import Base
from forge_otel.database.writing.aggregates import ROLLUP_COLUMNS, ROLLUP_KEYS
from forge_otel.database.writing.writer import write
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Cost, Record, Step, Usage


async def test_migrations_go_up_down_and_up_with_data(url: str) -> None:
    """A new database is migrated to the newest revision, to none, and back; a repeated migration keeps the rows."""
    assert await current(url) is None
    async with SqlSink(url) as sink:
        await sink.deliver([record()])
    head = await current(url)
    assert head is not None
    await migrate(url)
    async with SqlSink(url) as sink:
        assert len(await rows(sink.engine, GENERATIONS)) == 1
    await migrate(url, "base")
    assert await current(url) is None
    await migrate(url)
    await migrate(url, head)

    async with SqlSink(url) as sink:
        await sink.deliver([record()])
        assert len(await rows(sink.engine, GENERATIONS)) == 1


async def test_the_tables_are_those_of_the_models(url: str) -> None:
    """Alembic finds no difference between the migrated database and the models."""
    await migrate(url)

    def differences(connection: Connection) -> list[Any]:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))

    engine = create_engine(url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert set(await connection.run_sync(lambda sync: inspect(sync).get_table_names())) == TABLES
    await engine.dispose()


async def test_autogenerate_excludes_our_tables(url: str) -> None:
    """With `include_object` the autogenerate of a host finds no difference."""
    await migrate(url)

    def differences(connection: Connection) -> list[Any]:
        options = {"include_object": include_object}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), MetaData()))

    engine = create_engine(url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_four_workers_migrate_concurrently(url: str) -> None:
    """Four processes that start together all succeed."""
    code = "import asyncio, sys; from forge_otel.database.migrate import migrate; asyncio.run(migrate(sys.argv[1]))"
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        for _ in range(4)
    ]
    outputs = [(await worker.communicate())[0].decode() for worker in workers]

    assert outputs == [""] * 4
    assert [worker.returncode for worker in workers] == [0] * 4
    assert await current(url) is not None


async def test_a_failed_migration_is_rolled_back(url: str) -> None:
    """A migration that fails creates no table."""
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE cache_stats (id INTEGER)"))
    with pytest.raises(SQLAlchemyError):
        await migrate(url)

    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["cache_stats"]
    await engine.dispose()


OLD_FILE = Path(__file__).parent / "data" / "forge-0001.db"
"""Written by the version whose last revision was 0001: 60 generations within eight hours around midnight."""

FIRST_TABLES = ("generations", "costs", "cache_stats")


@pytest.fixture(params=["sqlite", "postgres"])
async def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database of an older version."""
    if request.param == "sqlite":
        shutil.copy(OLD_FILE, tmp_path / "forge.db")
        return f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    url = str(request.getfixturevalue("postgres_database"))
    await migrate(url, "0001")
    await copied(create_engine(url))
    return url


async def copied(engine: AsyncEngine) -> None:
    """Copy the rows of the old file."""
    with sqlite3.connect(OLD_FILE) as old:
        old.row_factory = sqlite3.Row
        async with engine.begin() as connection:
            for table in FIRST_TABLES:
                rows = [dict(row) for row in old.execute(f"SELECT * FROM {table}")]
                columns = Base.metadata.tables[table].columns
                names = list(rows[0])
                marks = [f":{name}" for name in names]
                statement = text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(marks)})")
                moments = [name for name in ("created_at", "minute") if name in columns]
                jsons = [name for name, column in columns.items() if "JSON" in repr(column.type)]
                statement = statement.bindparams(
                    *(bindparam(name, type_=DateTime(timezone=True)) for name in moments),
                    *(bindparam(name, type_=JSONB) for name in jsons),
                )
                await connection.execute(statement, [converted(row, moments, jsons) for row in rows])
    await engine.dispose()
    old.close()


def converted(row: dict[str, Any], moments: Iterable[str], jsons: Iterable[str]) -> dict[str, Any]:
    """Convert the texts of SQLite to the types of PostgreSQL."""
    return (
        row
        | {name: datetime.fromisoformat(row[name]).replace(tzinfo=UTC) for name in moments}
        | {name: json.loads(row[name]) for name in jsons}
    )


async def content(engine: AsyncEngine, table: str, *, without: str = "") -> list[tuple[Any, ...]]:
    """All rows of a table, sorted by primary key, without one column."""
    found = Base.metadata.tables[table]
    columns = [column for column in found.columns if column.name != without]
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(*columns).order_by(*found.primary_key.columns))]


async def test_rollups_are_filled_from_stored_generations(old_url: str, tmp_path: Path) -> None:
    """After the upgrade the rollups equal those that this version writes with the same generations."""
    await migrate(old_url)
    engine = create_engine(old_url)
    generations, costs, sums = [await content(engine, table) for table in ("generations", "costs", "rollups")]
    await engine.dispose()

    fresh_url = f"sqlite+aiosqlite:///{tmp_path}/fresh.db"
    await migrate(fresh_url)
    fresh = create_engine(fresh_url)
    names = Base.metadata.tables["generations"].columns.keys()
    await write(fresh, [as_record(dict(zip(names, row, strict=True)), costs) for row in generations])
    expected = await content(fresh, "rollups")
    assert await content(fresh, "generations") == generations
    await fresh.dispose()
    assert len(generations) == 60
    assert sorted(sums, key=repr) == sorted(expected, key=repr) != []
    place = ROLLUP_COLUMNS.index("count")
    assert sum(row[place] for row in sums if row[:3] == (24, "answers", "")) == 60


def as_record(row: dict[str, Any], costs: list[tuple[Any, ...]]) -> Record:
    """Rebuild the record of a row."""
    names = Base.metadata.tables["costs"].columns.keys()
    own = [found for cost in costs if (found := dict(zip(names, cost, strict=True)))["generation_id"] == row["id"]]
    return Record(
        **{name: row[name] for name in row.keys() & Record.__slots__ if name != "steps"},
        steps=tuple(Step(**step) for step in row["steps"]),
        cost_usd=row["cost_nano_usd"],
        saved_usd=row["saved_nano_usd"],
        costs=tuple(
            Cost(
                api=cost["api"],
                model=cost["model"],
                agent=cost["agent"],
                usage=Usage(input_uncached=cost["input_uncached_tokens"], output=cost["output_tokens"]),
                amount_usd=cost["amount_nano_usd"],
            )
            for cost in own
        ),
    )


async def test_every_revision_goes_down_and_up_with_data(old_url: str) -> None:
    """The rows of the first tables survive both ways, and the rollups are rebuilt."""
    engine = create_engine(old_url)
    await migrate(old_url)
    before = {table: await content(engine, table) for table in (*FIRST_TABLES, "rollups")}
    old = {table: await content(engine, table, without="similarity") for table in FIRST_TABLES}
    for revision in ("0002", "0001"):
        await migrate(old_url, revision)
        assert await current(old_url) == revision
        assert {table: await content(engine, table, without="similarity") for table in FIRST_TABLES} == old
    await migrate(old_url)

    assert {table: await content(engine, table) for table in (*FIRST_TABLES, "rollups")} == before
    await engine.dispose()
    assert before["rollups"][0][: len(ROLLUP_KEYS)]


@pytest.mark.parametrize("with_helper", [True, False])
async def test_a_hosts_own_autogenerate_leaves_our_tables(old_url: str, tmp_path: Path, with_helper: bool) -> None:
    """A host's revision creates its own table only with `include_object`, and drops ours without it."""
    await migrate(old_url)
    host = tmp_path / "host"
    (host / "versions").mkdir(parents=True)
    (host / "script.py.mako").write_text(
        "revision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n"
        "def upgrade():\n    ${upgrades if upgrades else 'pass'}\n"
    )
    (host / "env.py").write_text(HOST_ENV)
    script = HOST_RUN.format(host=str(host), url=old_url, with_helper=with_helper)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()

    [revision] = (host / "versions").glob("*.py")
    text = revision.read_text()
    assert "op.create_table('orders'" in text
    assert ("drop" not in text) == with_helper


HOST_ENV = """
import asyncio
from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import create_async_engine
from forge_otel.database import include_object

metadata = MetaData()
Table("orders", metadata, Column("id", Integer, primary_key=True))
options = {"include_object": include_object} if context.config.attributes["with_helper"] else {}

def run(connection):
    context.configure(connection=connection, target_metadata=metadata, **options)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = create_async_engine(context.config.get_main_option("sqlalchemy.url"))
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(main())
"""

HOST_RUN = """
from alembic import command
from alembic.config import Config

config = Config()
config.set_main_option("script_location", {host!r})
config.set_main_option("sqlalchemy.url", {url!r})
config.attributes["with_helper"] = {with_helper}
command.revision(config, message="orders", autogenerate=True)
"""
