"""Queries of the rollups and of partial hours use an index."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from forge_otel.database.analytics import partial_hours
from forge_otel.database.analytics.time_ranges import histogram_query, rollup_query
from forge_otel.database.models import Base
from forge_otel.database.rollups import DAY, HOUR
from forge_otel.sinks.sql import SqlSink

START = datetime(2026, 1, 1, tzinfo=UTC)


async def test_every_query_uses_an_index(sink: SqlSink) -> None:
    """No query scans a table: EXPLAIN names the index for whole days, whole hours and partial hours."""
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
            # The outer query scans the result of the inner one, which uses the index.
            assert "SCAN" not in plan.replace("SCAN anon_1", ""), plan
            assert "partial" in name or "PRIMARY KEY (hours=? AND facet=? AND component_type=? AND start>? AND" in plan
        else:
            assert "Seq Scan" not in plan, plan
            assert "partial" in name or "rollups_pkey" in plan, plan


async def explained(sink: SqlSink, query: Any) -> str:
    """The plan of a query as text."""
    is_sqlite = sink.engine.dialect.name == "sqlite"
    async with sink.engine.begin() as connection:
        if not is_sqlite:
            # A sequential scan is cheaper for few rows; the test is whether the index can be used.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        statement = f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{compiled}"
        return "\n".join(str(row) for row in await connection.exec_driver_sql(statement))
