"""Analytics queries, compared with a plain loop over the records."""

import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from tests.unit.sinks.builders import record

from forge_otel.database.analytics import queries as analytics
from forge_otel.database.analytics.queries import Latency, Range, summary
from forge_otel.database.rollups import DAY, HOUR, RELATIVE_ERROR
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
async def filled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlSink]:
    """A database of each kind with two weeks of generations."""
    url = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_database"))
    async with SqlSink(url) as opened:
        for place in range(0, len(RECORDS), 400):
            await opened.deliver(RECORDS[place : place + 400])
        yield opened


def chosen(requested: Range) -> list[Record]:
    """The records of a range, by a plain loop."""
    assert requested.start is not None
    assert requested.end is not None
    return [
        item
        for item in RECORDS
        if requested.start <= item.created_at < requested.end
        and requested.component_type in {None, item.component_type}
    ]


async def test_layers_costs_and_errors_agree_with_counting_by_hand(filled: SqlSink) -> None:
    """For every range, including those that begin and end within an hour."""
    for requested in RANGES:
        items = chosen(requested)
        looked_up = Counter(layer for item in items for layer in {*item.misses, item.source} & {"L1", "L2", "L3"})
        hits = Counter(item.source for item in items)
        found = {one.layer: one for one in await analytics.layers(filled.engine, requested)}
        assert {name: (one.requests, one.hits) for name, one in found.items()} == {
            name: (count, hits[name]) for name, count in looked_up.items()
        }
        assert sum((one.saved_usd for one in found.values()), Decimal(0)) == sum(item.saved_usd for item in items)

        full = sum(item.source == "L4" for item in items)
        costs = [
            (one.api, one.calls, one.unpriced, one.cost_usd) for one in await analytics.costs(filled.engine, requested)
        ]
        assert costs == [
            ("openai", full, 0, full * Decimal("0.21")),
            ("s3", full, 0, full * Decimal("1E-9")),
            ("figma", full, full, Decimal(0)),
        ] * bool(full)

        counts = Counter(item.error_type or item.outcome for item in items if item.outcome != "ok")
        errors = await analytics.errors(filled.engine, requested, limit=3)
        assert [(one.error_type, one.count) for one in errors] == sorted(
            counts.items(), key=lambda pair: (-pair[1], pair[0])
        )[:3]


@pytest.mark.parametrize("step_hours", [HOUR, DAY])
async def test_a_series_adds_up_to_its_range(filled: SqlSink, step_hours: int) -> None:
    """Each point counts the generations that began in its hour or day, and in the range."""
    for requested in RANGES:
        due: Counter[datetime] = Counter(
            item.created_at.replace(
                hour=item.created_at.hour if step_hours == HOUR else 0, minute=0, second=0, microsecond=0
            )
            for item in chosen(requested)
        )
        points = await analytics.series(filled.engine, requested, step_hours=step_hours)
        total = await analytics.summary(filled.engine, requested)

        assert {point.start: point.generations for point in points} == dict(due)
        assert [point.start for point in points] == sorted(due)
        assert sum(point.errors for point in points) == total.errors
        assert sum((point.cost_usd for point in points), Decimal(0)) == total.cost_usd
        assert sum(point.latency.count for point in points) == total.generations - total.errors


async def test_a_series_has_bounds(filled: SqlSink) -> None:
    """An open range and thousands of points are errors."""
    for requested, step_hours in [
        (Range(), 24),
        (Range(start=START), 24),
        (Range(start=START, end=START + timedelta(days=30)), 1),
        (Range(start=START, end=START + timedelta(days=1)), 7),
    ]:
        with pytest.raises(BadRequest):
            await analytics.series(filled.engine, requested, step_hours=step_hours)


async def test_the_baseline_compares_with_the_week_before(filled: SqlSink) -> None:
    """By component type: full and cached latency, and the degradation since a week before."""
    slow = [record(created_at=ODD, component_type="modal", duration_s=seconds) for seconds in (60.0, 90.0)]
    quick = record(created_at=ODD - timedelta(days=7), component_type="modal", duration_s=45.0)
    hit = record(created_at=ODD, component_type="modal", duration_s=0.5, source="L1", costs=())
    failed = record(created_at=ODD, component_type="modal", source="", outcome="error")
    await filled.deliver([*slow, quick, hit, failed])
    requested = Range(start=ODD, end=ODD + timedelta(days=2))

    found = {one.component_type: one for one in await analytics.baseline(filled.engine, requested)}
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
        await analytics.baseline(filled.engine, Range())


async def test_the_summary_agrees_with_counting_by_hand(sink: SqlSink) -> None:
    """Counts, money and percentiles equal those of a plain loop, for every range and type."""
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
    """Compare with exact nearest-rank percentiles, within the declared error."""
    durations = sorted(item.duration_s for item in items if item.source in sources and item.outcome == "ok")
    assert found.count == len(durations)
    for share, value in [(0.5, found.p50_s), (0.95, found.p95_s), (0.99, found.p99_s)]:
        exact = durations[math.ceil(share * len(durations)) - 1] if durations else None
        assert value == (exact if exact is None else pytest.approx(exact, rel=RELATIVE_ERROR + 1e-9))


async def test_the_range_is_half_open_and_aware(sink: SqlSink) -> None:
    """The start is inclusive, the end exclusive, and any time zone is accepted."""
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    await sink.deliver([record(created_at=moment)])
    later = moment + timedelta(microseconds=1)

    assert (await summary(sink.engine, Range(start=moment, end=later))).generations == 1
    assert (await summary(sink.engine, Range(start=later))).generations == 0
    assert (await summary(sink.engine, Range(end=moment))).generations == 0
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    assert (await summary(sink.engine, Range(start=moment.astimezone(elsewhere), end=later))).generations == 1
