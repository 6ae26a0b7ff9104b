"""`forge-otel stats`: what the caches answered and saved, from the database."""

import asyncio
import os
from argparse import Namespace
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from forge_otel.cli._database import open_database, read
from forge_otel.errors import ConfigurationError
from forge_otel.settings import Settings

__all__ = ["add"]

_MAX_MISSES: Final = 10_000
_MAX_DAYS: Final = 3650.0


def add(commands: Any) -> None:
    """Add the command."""
    stats = commands.add_parser("stats", help="show hit rates, savings and latency by cache layer, from the database")
    stats.add_argument("--days", type=float, default=7.0, help="how far to look back (default: %(default)s)")
    stats.set_defaults(command=_stats)


def _stats(arguments: Namespace) -> int:
    if not 0 < arguments.days <= _MAX_DAYS:
        raise ConfigurationError([f"--days is above 0 and at most {_MAX_DAYS:g}"])
    url = open_database(Settings.from_env(os.environ))
    end = datetime.now(UTC)
    found = asyncio.run(read(url, lambda engine: _ask(engine, end - timedelta(days=arguments.days), end)))
    summary, layers, misses = found
    answered = sum(summary.by_source.values())
    hits = answered - summary.by_source.get("L4", 0)
    rate = hits / answered if answered else 0.0
    print(f"{summary.generations} generations, {hits} of {answered} answers without the pipeline ({rate:.1%})")
    print(f"spent {summary.cost_usd} USD, saved {summary.saved_usd} USD")
    print(f"{'layer':10} {'asked':>8} {'hits':>8} {'rate':>7} {'saved USD':>14}")
    for layer in layers:
        print(f"{layer.layer:10} {layer.requests:8} {layer.hits:8} {layer.hit_rate:7.1%} {layer.saved_usd:14}")
    for name, latency in (("full", summary.full), ("cached", summary.cached)):
        print(f"{name:10} p50 {_seconds(latency.p50_s)}  p95 {_seconds(latency.p95_s)}  p99 {_seconds(latency.p99_s)}")
    for (layer, reason), count in misses.most_common():
        print(f"missed     {layer} {reason}: {count}")
    return 0


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


async def _ask(engine: Any, start: datetime, end: datetime) -> tuple[Any, Any, Counter[tuple[str, str]]]:
    from forge_otel.database.analytics import queries as analytics
    from forge_otel.database.models import GenerationRow
    from forge_otel.errors import needs

    with needs("sql"):
        from sqlalchemy import select

    asked = analytics.Range(start=start, end=end)
    summary = await analytics.summary(engine, asked)
    layers = await analytics.layers(engine, asked)
    # The reasons of the last ones only: they are told apart row by row.
    table: Any = GenerationRow.__table__  # type: ignore[attr-defined]
    query = select(table.c.misses).where(table.c.created_at >= start).order_by(table.c.created_at.desc())
    misses: Counter[tuple[str, str]] = Counter()
    async with engine.connect() as connection:
        for row in await connection.execute(query.limit(_MAX_MISSES)):
            misses.update((row.misses or {}).items())
    return summary, layers, misses
