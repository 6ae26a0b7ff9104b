"""`forge-otel stats`: shows hit rates, savings and latency by cache layer."""

import asyncio
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from forge_otel.cli._database import existing_database_url, read
from forge_otel.cli._miss_reasons import describe
from forge_otel.errors import ConfigurationError, needs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from forge_otel.database.analytics.queries import LayerFigures, Summary

__all__ = ["add"]

_MAX_GENERATIONS: Final = 10_000
_MAX_DAYS: Final = 3650.0


def add(commands: Any) -> None:
    """Add the command."""
    stats = commands.add_parser("stats", help="show hit rates, savings and latency by cache layer, from the database")
    stats.add_argument("--days", type=float, default=7.0, help="length of the range until now (default: %(default)s)")
    stats.set_defaults(command=_stats)


def _stats(arguments: Namespace) -> int:
    if not 0 < arguments.days <= _MAX_DAYS:
        raise ConfigurationError([f"--days is above 0 and at most {_MAX_DAYS:g}"])
    end = datetime.now(UTC)
    start = end - timedelta(days=arguments.days)
    summary, layers, misses = asyncio.run(read(existing_database_url(), lambda engine: _figures(engine, start, end)))
    answered = sum(summary.by_source.values())
    hits = answered - summary.by_source.get("L4", 0)
    rate = hits / answered if answered else 0.0
    print(f"{summary.generations} generations, {hits} of {answered} answers without the pipeline ({rate:.1%})")
    print(f"spent {summary.cost_usd} USD, saved {summary.saved_usd} USD")
    print(f"{'layer':10} {'lookups':>8} {'hits':>8} {'rate':>7} {'saved USD':>14}")
    for layer in layers:
        print(f"{layer.layer:10} {layer.requests:8} {layer.hits:8} {layer.hit_rate:7.1%} {layer.saved_usd:14}")
    for name, latency in (("full", summary.full), ("cached", summary.cached)):
        print(f"{name:10} p50 {_seconds(latency.p50_s)}  p95 {_seconds(latency.p95_s)}  p99 {_seconds(latency.p99_s)}")
    for (name, reason), count in misses.most_common():
        print(f"{'misses':10} {count:8} {name}: {describe(reason)}")
    return 0


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


async def _figures(
    engine: "AsyncEngine", start: datetime, end: datetime
) -> "tuple[Summary, Sequence[LayerFigures], Counter[tuple[str, str]]]":
    from forge_otel.database.analytics import queries

    requested = queries.Range(start=start, end=end)
    summary, layers = await queries.summary(engine, requested), await queries.layers(engine, requested)
    return summary, layers, await _misses(engine, start)


async def _misses(engine: "AsyncEngine", start: datetime) -> Counter[tuple[str, str]]:
    """Count the misses by layer and reason."""
    from forge_otel.database.models import Base

    with needs("sql"):
        from sqlalchemy import select

    generations = Base.metadata.tables["generations"].c
    # Only the newest generations, because the reasons are in JSON and counted row by row.
    query = (
        select(generations.misses)
        .where(generations.created_at >= start)
        .order_by(generations.created_at.desc())
        .limit(_MAX_GENERATIONS)
    )
    counts: Counter[tuple[str, str]] = Counter()
    async with engine.connect() as connection:
        for misses in (await connection.execute(query)).scalars():
            counts.update((misses or {}).items())
    return counts
