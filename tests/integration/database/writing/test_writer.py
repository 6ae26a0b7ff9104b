"""Writing of batches to SQLite and PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import func, select, text
from tests.integration.database.tables import CACHE_STATS, COSTS, GENERATIONS, rows
from tests.unit.sinks.builders import record

from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Cost, Usage


async def test_every_field_of_a_record_is_stored(sink: SqlSink) -> None:
    """The rows hold every field of the record, with exact money and times."""
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


async def test_a_record_is_stored_and_counted_once(sink: SqlSink) -> None:
    """A repeated delivery changes nothing, alone or together with new records."""
    items = [record() for _ in range(20)]
    await sink.deliver(items[:10])
    await sink.deliver(items[:10])
    await sink.deliver([*items, *items])

    assert len(await rows(sink.engine, GENERATIONS)) == 20
    assert len(await rows(sink.engine, COSTS)) == 40
    assert [row["requests"] for row in await rows(sink.engine, CACHE_STATS)] == [20, 20]


async def test_cache_stats_count_lookups_by_minute(sink: SqlSink) -> None:
    """Each layer with a lookup counts a request, the layer that answered a hit and its savings."""
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


async def test_concurrent_writers_count_each_generation_once(url: str) -> None:
    """Two sinks that deliver the same records concurrently store and count them once."""
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


async def test_text_that_no_database_stores_is_replaced(sink: SqlSink) -> None:
    """NUL and lone surrogates, which a client can send, are replaced; the record is stored."""
    await sink.deliver([record(component_name="a\0b\ud800c", misses={"L1": "a\0"}, error_message="line\nline 😀")])

    [row] = await rows(sink.engine, GENERATIONS)
    assert row["component_name"] == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert row["misses"] == {"L1": "a\N{REPLACEMENT CHARACTER}"}
    assert row["error_message"] == "line\nline 😀"


async def test_a_batch_with_many_costs_is_stored(sink: SqlSink) -> None:
    """A full batch with many calls each stays within the limits of both databases."""
    calls = tuple(Cost(api="openai", usage=Usage(output=1), amount_usd=Decimal("0.001")) for _ in range(12))
    items = [replace(record(), costs=calls) for _ in range(500)]
    await sink.deliver(items)

    async with sink.engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(COSTS))).scalar_one() == 6000
