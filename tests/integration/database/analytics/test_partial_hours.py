"""Figures of partial hours, compared with the rollups of the same hour."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from tests.unit.sinks.builders import record

from forge_otel.database.analytics.partial_hours import count
from forge_otel.database.models import Base
from forge_otel.database.rollups import FACETS, HOUR
from forge_otel.sinks.sql import SqlSink

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
GENERATIONS = Base.metadata.tables["generations"].c
ROLLUPS = Base.metadata.tables["rollups"].c


async def test_an_hour_counted_from_generations_equals_its_rollups(sink: SqlSink) -> None:
    """Every facet has the same rows and sums, whether it is read from `generations` or from `rollups`."""
    hit = {"source": "L2", "duration_s": 0.02, "costs": (), "cost_usd": Decimal(0), "saved_usd": Decimal("0.42")}
    failed = {"source": "", "outcome": "error", "costs": ()}
    await sink.deliver(
        [
            record(created_at=START),
            record(created_at=START + timedelta(minutes=1), misses={"L1": "cold"}, **hit),
            record(created_at=START + timedelta(minutes=2), component_type="card", misses={}, **hit),
            record(created_at=START + timedelta(minutes=3), error_type="E" * 300, **failed),
            record(created_at=START + timedelta(minutes=4), error_type="", **failed),
        ]
    )

    async with sink.engine.connect() as connection:
        within = [GENERATIONS.created_at >= START, GENERATIONS.created_at < START + timedelta(hours=1)]
        counted: dict[tuple[Any, ...], list[int]] = {}
        for keys, values in await count(connection, within, FACETS):
            key = (keys["facet"], keys["component_type"], keys["name"], keys["bucket"])
            sums = counted.setdefault(key, [0, 0, 0, 0])
            counted[key] = [one + int(more) for one, more in zip(sums, values, strict=True)]
        columns = (ROLLUPS.facet, ROLLUPS.component_type, ROLLUPS.name, ROLLUPS.bucket, ROLLUPS.count, ROLLUPS.hits)
        query = select(*columns).where(ROLLUPS.hours == HOUR, ROLLUPS.component_type != "")
        stored = {tuple(row[:4]): list(row[4:]) for row in await connection.execute(query)}

    assert {key: values[:2] for key, values in counted.items()} == stored
