"""What the analytics answer, against a plain loop over the records, and how the databases find it."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.unit.sinks.builders import record

from forge_otel.database.analytics import partial_hours
from forge_otel.database.analytics import queries as analytics
from forge_otel.database.analytics.queries import Range
from forge_otel.database.analytics.time_ranges import histogram_query, rollup_query
from forge_otel.database.models import Base
from forge_otel.database.rollups import DAY, HOUR
from forge_otel.errors import BadRequest
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Cost, Record

START = datetime(2026, 1, 1, tzinfo=UTC)
ODD = START + timedelta(days=8, hours=3, minutes=21, microseconds=5)
RANGES = [
    Range(start=ODD, end=ODD + timedelta(days=3, hours=7)),
    Range(start=ODD, end=ODD + timedelta(minutes=50)),
    Range(start=START + timedelta(days=9), end=START + timedelta(days=11), component_type="card"),
    Range(start=ODD, end=ODD + timedelta(days=3), component_type="none such"),
]


def made(count: int) -> list[Record]:
    """Two weeks of generations of every kind."""
    chance = random.Random(11)
    price = Decimal("0.21")
    found = []
    for _ in range(count):
        source = chance.choice(["L1", "L2", "L3", "L4", "L4", ""])
        paid = (Cost(api="openai", amount_usd=price), Cost(api="figma"), Cost(api="s3", amount_usd=Decimal("1E-9")))
        found.append(
            record(
                created_at=START + timedelta(days=14) * chance.random(),
                component_type=chance.choice(["button", "card"]),
                source=source,
                outcome="ok" if source else chance.choice(["error", "timeout"]),
                error_type=None if source or chance.random() < 0.3 else chance.choice(["ValueError", "BadCode"]),
                duration_s=chance.lognormvariate(2, 1),
                cost_usd=price if source == "L4" else Decimal(0),
                saved_usd=price if source in {"L1", "L2", "L3"} else Decimal(0),
                costs=paid if source == "L4" else (),
                misses={} if source == "L1" else {"L1": "cold"},
            )
        )
    return found


RECORDS = made(1500)


@pytest.fixture(params=["sqlite", "postgres"])
async def sink(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlSink]:
    """A database of each kind with two weeks in it."""
    url = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_database"))
    async with SqlSink(url) as opened:
        for place in range(0, len(RECORDS), 400):
            await opened.deliver(RECORDS[place : place + 400])
        yield opened


def chosen(asked: Range) -> list[Record]:
    """The records of a range, the plain way."""
    assert asked.start is not None
    assert asked.end is not None
    return [
        item
        for item in RECORDS
        if asked.start <= item.created_at < asked.end and asked.component_type in {None, item.component_type}
    ]


async def test_layers_costs_and_errors_agree_with_counting_by_hand(sink: SqlSink) -> None:
    """For every range, also those that begin and end within an hour."""
    for asked in RANGES:
        items = chosen(asked)
        looked_up = Counter(layer for item in items for layer in {*item.misses, item.source} & {"L1", "L2", "L3"})
        hits = Counter(item.source for item in items)
        found = {one.layer: one for one in await analytics.layers(sink.engine, asked)}
        assert {name: (one.requests, one.hits) for name, one in found.items()} == {
            name: (count, hits[name]) for name, count in looked_up.items()
        }
        assert sum((one.saved_usd for one in found.values()), Decimal(0)) == sum(item.saved_usd for item in items)

        full = sum(item.source == "L4" for item in items)
        costs = [(one.api, one.calls, one.unpriced, one.cost_usd) for one in await analytics.costs(sink.engine, asked)]
        assert costs == [
            ("openai", full, 0, full * Decimal("0.21")),
            ("s3", full, 0, full * Decimal("1E-9")),
            ("figma", full, full, Decimal(0)),
        ] * bool(full)

        counts = Counter(item.error_type or item.outcome for item in items if item.outcome != "ok")
        errors = await analytics.errors(sink.engine, asked, limit=3)
        assert [(one.error_type, one.count) for one in errors] == sorted(
            counts.items(), key=lambda pair: (-pair[1], pair[0])
        )[:3]


@pytest.mark.parametrize("step_hours", [HOUR, DAY])
async def test_a_series_adds_up_to_its_range(sink: SqlSink, step_hours: int) -> None:
    """Each point holds what began in its hour or day, and in the range."""
    for asked in RANGES:
        due: Counter[datetime] = Counter(
            item.created_at.replace(
                hour=item.created_at.hour if step_hours == HOUR else 0, minute=0, second=0, microsecond=0
            )
            for item in chosen(asked)
        )
        points = await analytics.series(sink.engine, asked, step_hours=step_hours)
        total = await analytics.summary(sink.engine, asked)

        assert {point.start: point.generations for point in points} == dict(due)
        assert [point.start for point in points] == sorted(due)
        assert sum(point.errors for point in points) == total.errors
        assert sum((point.cost_usd for point in points), Decimal(0)) == total.cost_usd
        assert sum(point.latency.count for point in points) == total.generations - total.errors


async def test_a_series_has_bounds(sink: SqlSink) -> None:
    """Neither an open range nor thousands of points."""
    for asked, step_hours in [
        (Range(), 24),
        (Range(start=START), 24),
        (Range(start=START, end=START + timedelta(days=30)), 1),
        (Range(start=START, end=START + timedelta(days=1)), 7),
    ]:
        with pytest.raises(BadRequest):
            await analytics.series(sink.engine, asked, step_hours=step_hours)


async def test_the_baseline_compares_with_the_week_before(sink: SqlSink) -> None:
    """By component type: full against cached, and how much slower than seven days ago."""
    slow = [record(created_at=ODD, component_type="modal", duration_s=seconds) for seconds in (60.0, 90.0)]
    quick = record(created_at=ODD - timedelta(days=7), component_type="modal", duration_s=45.0)
    hit = record(created_at=ODD, component_type="modal", duration_s=0.5, source="L1", costs=())
    failed = record(created_at=ODD, component_type="modal", source="", outcome="error")
    await sink.deliver([*slow, quick, hit, failed])
    asked = Range(start=ODD, end=ODD + timedelta(days=2))

    found = {one.component_type: one for one in await analytics.baseline(sink.engine, asked)}
    modal = found["modal"]
    assert found.keys() == {"button", "card", "modal"}
    assert (modal.full.count, modal.cached.count, modal.week_before.count) == (2, 1, 1)
    assert modal.success_rate == pytest.approx(2 / 3)
    assert modal.degradation == pytest.approx(90 / 45 - 1, abs=0.2)
    assert [(one.api, one.calls, one.cost_usd) for one in modal.by_api] == [
        ("openai", 3, Decimal("1.26")),
        ("figma", 3, Decimal(0)),
    ]
    with pytest.raises(BadRequest, match="baseline"):
        await analytics.baseline(sink.engine, Range())


async def test_every_query_uses_an_index(sink: SqlSink) -> None:
    """No table is read as a whole: EXPLAIN names the index for whole days, whole hours, and the rest of an hour."""
    day = timedelta(days=1)
    generations = Base.metadata.tables["generations"].c
    within = (generations.created_at >= START, generations.created_at < START + timedelta(minutes=30))
    queries = {
        f"{facet} {hours}": rollup_query(hours, (START, START + day), [kind], facets=[facet], keys=["name", "bucket"])
        for facet in ("answers", "latency", "costs", "errors", "layers")
        for hours in (HOUR, DAY)
        for kind in ("", "card")
    } | {
        f"{facet} partial": partial_hours.query(facet, within)
        for facet in ("answers", "latency", "costs", "errors", "layers")
    }
    queries |= {
        f"histograms {hours}": histogram_query(hours, (START, START + day), ["card"], keys=["start"])
        for hours in (HOUR, DAY)
    }
    for name, query in queries.items():
        plan = await explained(sink, query)
        wanted = "ix_generations_created_at" if "partial" in name else "rollups"
        assert wanted in plan, plan
        if sink.engine.dialect.name == "sqlite":
            # A histogram is made of what was read through the index.
            assert "SCAN" not in plan.replace("SCAN anon_1", ""), plan
            assert "partial" in name or "PRIMARY KEY (hours=? AND facet=? AND component_type=? AND start>? AND" in plan
        else:
            assert "Seq Scan" not in plan, plan
            assert "partial" in name or "rollups_pkey" in plan, plan


async def explained(sink: SqlSink, query: Any) -> str:
    """The plan of a query, as the database prints it."""
    is_sqlite = sink.engine.dialect.name == "sqlite"
    async with sink.engine.begin() as connection:
        if not is_sqlite:
            # So few rows are read as quickly one after the other: the question is whether the index can serve.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        statement = f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{compiled}"
        return "\n".join(str(row) for row in await connection.exec_driver_sql(statement))
