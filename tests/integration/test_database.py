"""Tables, migrations, the SQL sink and the analytics, on SQLite files and on PostgreSQL."""

import asyncio
import math
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, func, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel.database import TABLES, VERSION_TABLE, include_object
from forge_otel.database.analytics.queries import Latency, Range, summary
from forge_otel.database.engine import create_engine
from forge_otel.database.migrate import current, migrate
from forge_otel.database.models import Base, NanoUsd
from forge_otel.database.rollups import RELATIVE_ERROR
from forge_otel.errors import NotOpen, Rejected
from forge_otel.outbox.outbox import Outbox
from forge_otel.sinks.sql import SqlSink, open_url
from forge_otel.types import Cost, Record, Usage

GENERATIONS, COSTS, CACHE_STATS = (Base.metadata.tables[name] for name in ("generations", "costs", "cache_stats"))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of the test's own, of each kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite+aiosqlite:///{tmp_path}/folder/forge.db"


@pytest.fixture
async def sink(url: str) -> AsyncIterator[SqlSink]:
    """An open sink."""
    async with SqlSink(url) as opened:
        yield opened


async def rows(engine: AsyncEngine, table: Any) -> list[dict[str, Any]]:
    """All rows of a table in the order of their keys."""
    async with engine.connect() as connection:
        found = await connection.execute(select(table).order_by(*table.primary_key.columns))
        return [dict(row._mapping) for row in found]


async def test_every_field_of_a_record_is_stored(sink: SqlSink) -> None:
    """What a record says can be read back from its rows, money and times exact."""
    item = record(
        saved_usd=Decimal("0.000000001"),
        quality_score=0.875,
        similarity=0.9375,
        degraded=("qdrant:lexical",),
        error_type="ValueError",
        error_message="no",
        tenant="acme",
    )
    await sink.deliver([item])

    [row] = await rows(sink.engine, GENERATIONS)
    same = {name: row.pop(name) for name in [*row] if hasattr(item, name)}
    assert same == {name: getattr(item, name) for name in same if name not in {"steps", "degraded"}} | {
        "degraded": ["qdrant:lexical"],
        "steps": [
            {"name": "code_generator", "kind": "agent", "started_s": 1.5, "duration_s": 40.25, "error_type": None}
        ],
    }
    assert same["created_at"].tzinfo is not None
    assert row == {
        "cost_nano_usd": Decimal("0.42"),
        "saved_nano_usd": Decimal("1E-9"),
        "input_uncached_tokens": 1000,
        "cache_read_tokens": 500,
        "cache_write_tokens": 0,
        "output_tokens": 300,
        "reasoning_tokens": 20,
    }
    priced, unpriced = await rows(sink.engine, COSTS)
    assert (priced["api"], priced["amount_nano_usd"], priced["cache_read_tokens"]) == ("openai", Decimal("0.42"), 500)
    assert (unpriced["api"], unpriced["amount_nano_usd"], unpriced["seq"]) == ("figma", None, 1)


async def test_a_repeated_delivery_changes_nothing(sink: SqlSink) -> None:
    """Records that come again, alone or among new ones, are stored and counted once."""
    items = [record() for _ in range(20)]
    await sink.deliver(items[:10])
    await sink.deliver(items[:10])
    await sink.deliver([*items, *items])

    assert len(await rows(sink.engine, GENERATIONS)) == 20
    assert len(await rows(sink.engine, COSTS)) == 40
    assert [row["requests"] for row in await rows(sink.engine, CACHE_STATS)] == [20, 20]


async def test_cache_stats_count_look_ups_by_minute(sink: SqlSink) -> None:
    """Each layer that was asked counts a request, the one that answered a hit and what it saved."""
    minute = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    hit = {"source": "L2", "misses": {"L1": "cold"}, "saved_usd": Decimal("0.42"), "cost_usd": Decimal(0)}
    await sink.deliver([record(), record(created_at=minute + timedelta(seconds=59.9), **hit)])
    await sink.deliver([record(**hit), record(created_at=minute + timedelta(seconds=60), component_type="card", **hit)])

    found = [tuple(row.values()) for row in await rows(sink.engine, CACHE_STATS)]
    later = minute + timedelta(minutes=1)
    assert found == [
        (minute, "L1", "button", 3, 0, Decimal(0)),
        (minute, "L2", "button", 3, 2, Decimal("0.84")),
        (later, "L1", "card", 1, 0, Decimal(0)),
        (later, "L2", "card", 1, 1, Decimal("0.42")),
    ]


async def test_two_writers_at_once_count_each_generation_once(url: str) -> None:
    """Processes that deliver the same records at the same moment store and count them once."""
    items = [record(component_type=f"type-{n % 7}") for n in range(200)]
    async with SqlSink(url) as one, SqlSink(url) as other:
        await asyncio.gather(
            *(sink.deliver(part) for sink in (one, other) for part in (items[:120], items[80:], items[::-1]))
        )
        stats = await rows(one.engine, CACHE_STATS)

        assert len(await rows(one.engine, GENERATIONS)) == 200
        assert sum(row["requests"] for row in stats if row["layer"] == "L1") == 200


async def test_money_is_exact(sink: SqlSink) -> None:
    """A thousand tiny amounts add up to the last digit, in Python and in the database's own sum."""
    amounts = [Decimal(n) * Decimal("0.000000001") + Decimal("0.0000015") for n in range(1000)]
    await sink.deliver([record(cost_usd=amount, costs=()) for amount in amounts])

    async with sink.engine.connect() as connection:
        total = (await connection.execute(select(func.sum(GENERATIONS.c.cost_nano_usd)))).scalar_one()
        raw = (await connection.execute(text("SELECT sum(cost_nano_usd) FROM generations"))).scalar_one()
    assert total == sum(amounts) == Decimal("0.0019995")
    assert int(raw) == 1_999_500


def test_money_below_a_billionth_is_rounded_to_even() -> None:
    """What is finer than a nano-dollar is rounded, not cut."""
    bind = NanoUsd().process_bind_param

    assert [bind(Decimal(amount), None) for amount in ("1.5E-9", "2.5E-9", "-1.5E-9", "1E-10")] == [2, 2, -2, 0]  # type: ignore[arg-type]


async def test_text_that_no_database_stores_is_replaced(sink: SqlSink) -> None:
    """NUL and lone surrogates, which a client can send, cost the character and not the record."""
    await sink.deliver([record(component_name="a\0b\ud800c", misses={"L1": "a\0"}, error_message="line\nline 😀")])

    [row] = await rows(sink.engine, GENERATIONS)
    assert row["component_name"] == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert row["misses"] == {"L1": "a\N{REPLACEMENT CHARACTER}"}
    assert row["error_message"] == "line\nline 😀"


async def test_a_record_that_the_database_refuses_is_rejected(sink: SqlSink) -> None:
    """Alone it is refused for good; among others the outbox has to look for it."""
    naive = record(created_at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(Rejected):
        await sink.deliver([naive])
    with pytest.raises(ValueError, match="timezone"):
        await sink.deliver([record(), naive])

    assert await rows(sink.engine, GENERATIONS) == []


async def test_a_bad_row_does_not_hold_up_the_batch(url: str, tmp_path: Path) -> None:
    """Through the outbox a bad record ends in the dead letters and all others in the table."""
    good = [record() for _ in range(60)]
    bad = record(cost_usd=Decimal(10) ** 20)
    sink = SqlSink(url)
    async with Outbox([sink], directory=tmp_path / "box", max_bytes=2**26, shutdown_timeout_s=5) as box:
        for item in [*good[:30], bad, *good[30:]]:
            box.offer_nowait(item)
        await eventually(lambda: not box.stats().sinks["database"].waiting, timeout_s=20)
        assert box.stats().sinks["database"].dropped == {"rejected": 1}
        stored = await rows(sink.engine, GENERATIONS)

    assert {row["id"] for row in stored} == {item.id for item in good}


async def test_a_database_that_is_down_delays_only(tmp_path: Path) -> None:
    """The service starts without its database, records wait, and arrive when it can be reached."""
    blocker = tmp_path / "folder"
    blocker.write_text("in the way")
    sink, other = SqlSink(f"sqlite+aiosqlite:///{blocker}/forge.db"), ListSink()
    async with Outbox([sink, other], directory=tmp_path / "box", max_bytes=2**26, shutdown_timeout_s=5) as box:
        await box.offer(record())
        await eventually(lambda: other.ids and not box.stats().sinks["database"].is_up)
        with pytest.raises(NotOpen):
            await sink.ping()
        blocker.unlink()
        await eventually(lambda: box.stats().sinks["database"].delivered == 1)
        await sink.ping()


async def test_migrations_go_up_down_and_up_with_data(url: str) -> None:
    """Every revision can be left and reached again, and rows survive what does not concern them."""
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


async def test_migrations_make_the_tables_of_the_models(url: str) -> None:
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


async def test_a_host_does_not_see_our_tables(url: str) -> None:
    """With `include_object` a host's own autogenerate leaves our tables and indexes alone."""
    await migrate(url)

    def differences(connection: Connection) -> list[Any]:
        options = {"include_object": include_object}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), MetaData()))

    engine = create_engine(url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_four_workers_migrate_at_once(url: str) -> None:
    """Four processes that start together all succeed, and the tables are there once."""
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


async def test_a_failed_migration_leaves_nothing(url: str) -> None:
    """A migration that fails half way is rolled back as a whole."""
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE cache_stats (id INTEGER)"))
    with pytest.raises(SQLAlchemyError):
        await migrate(url)

    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["cache_stats"]
    await engine.dispose()


async def test_the_summary_agrees_with_counting_by_hand(sink: SqlSink) -> None:
    """Counts, money and percentiles are those of a plain loop over the records, for every range and type."""
    chance = random.Random(7)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    items = [
        record(
            created_at=start + timedelta(minutes=chance.randrange(6000)),
            component_type=chance.choice(["button", "card"]),
            source=(source := chance.choice(["L1", "L2", "L3", "L4", "collapsed", ""])),
            outcome="ok" if source and chance.random() < 0.9 else chance.choice(["error", "timeout", "cancelled"]),
            duration_s=chance.random() * 90,
            cost_usd=Decimal(chance.randrange(10**9)) / 10**9,
            saved_usd=Decimal(chance.randrange(10**9)) / 10**9,
            costs=(),
        )
        for _ in range(700)
    ]
    await sink.deliver(items)

    odd = start + timedelta(hours=1, minutes=17, microseconds=3)
    for since, until in [
        (None, None),
        (start + timedelta(hours=2), start + timedelta(hours=5)),
        (start, start),
        (odd, None),
        (None, odd),
        (odd, odd + timedelta(days=1, hours=7)),
        (odd, odd + timedelta(minutes=20)),
    ]:
        for component_type in (None, "button", "none such"):
            chosen = [
                item
                for item in items
                if (since is None or item.created_at >= since)
                and (until is None or item.created_at < until)
                and component_type in {None, item.component_type}
            ]
            found = await summary(sink.engine, Range(start=since, end=until, component_type=component_type))
            assert (found.generations, found.errors) == (len(chosen), sum(item.outcome != "ok" for item in chosen))
            assert found.by_source == {
                source: count
                for source in ("L1", "L2", "L3", "L4", "collapsed")
                if (count := sum(item.source == source for item in chosen))
            }
            assert found.cost_usd == sum((item.cost_usd for item in chosen), Decimal(0))
            assert found.saved_usd == sum((item.saved_usd for item in chosen), Decimal(0))
            agrees(found.full, chosen, {"L4"})
            agrees(found.cached, chosen, {"L1", "L2", "L3"})


def agrees(found: Latency, items: list[Record], sources: set[str]) -> None:
    """Compare with percentiles by nearest rank, the plain way; the error that is declared is allowed."""
    durations = sorted(item.duration_s for item in items if item.source in sources and item.outcome == "ok")
    assert found.count == len(durations)
    for share, value in [(0.5, found.p50_s), (0.95, found.p95_s), (0.99, found.p99_s)]:
        exact = durations[math.ceil(share * len(durations)) - 1] if durations else None
        assert value == (exact if exact is None else pytest.approx(exact, rel=RELATIVE_ERROR + 1e-9))


async def test_the_range_is_half_open_and_aware(sink: SqlSink) -> None:
    """The start belongs to the range, the end does not, and other time zones mean the same moment."""
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    await sink.deliver([record(created_at=moment)])
    later = moment + timedelta(microseconds=1)

    assert (await summary(sink.engine, Range(start=moment, end=later))).generations == 1
    assert (await summary(sink.engine, Range(start=later))).generations == 0
    assert (await summary(sink.engine, Range(end=moment))).generations == 0
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    assert (await summary(sink.engine, Range(start=moment.astimezone(elsewhere), end=later))).generations == 1


async def test_large_batches_of_costly_generations(sink: SqlSink) -> None:
    """A full batch with many calls each stays within the limits of both databases."""
    calls = tuple(Cost(api="openai", usage=Usage(output=1), amount_usd=Decimal("0.001")) for _ in range(12))
    items = [replace(record(), costs=calls) for _ in range(500)]
    await sink.deliver(items)

    async with sink.engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(COSTS))).scalar_one() == 6000


async def test_urls_name_the_database(url: str) -> None:
    """`open_url` gives the sink for a URL."""
    assert open_url(url).url == url
