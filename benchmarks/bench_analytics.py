"""How long does each analytics query take with a million generations?

Ninety days of generations, with two paid calls in every full one. Ranges begin and end at odd moments, so that whole
days, whole hours and single generations are read. Check: counts and money equal those of a plain loop over the
records. Writing takes minutes; with ``--sqlite`` and ``--postgresql`` the databases are kept and measured again.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.servers import PostgresServer

from forge_otel._internal.ids import new_id
from forge_otel.database.analytics import queries as analytics
from forge_otel.database.analytics.queries import Range
from forge_otel.database.engine import create_engine
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Cost, Record, Usage

BOUND_S = 0.05
TYPES = ("button", "card", "modal", "input", "badge")
SOURCES = ("L1",) * 10 + ("L2",) * 2 + ("L3",) * 2 + ("L4",) * 5 + ("collapsed",)
TYPICAL_S = {"L1": 0.004, "L2": 0.03, "L3": 2.0, "L4": 55.0, "collapsed": 20.0}
START = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 4000

Ask = Callable[[AsyncEngine], Awaitable[Any]]


@dataclass
class Truth:
    """Figures of one range, counted by a plain loop."""

    asked: Range
    generations: int = 0
    cost_usd: Decimal = Decimal(0)
    errors: Counter[str] = field(default_factory=Counter)

    def note(self, record: Record) -> None:
        """Count the record if it is in the range."""
        start, end, kind = self.asked.start or START, self.asked.end, self.asked.component_type
        if record.created_at < start or (end and record.created_at >= end) or kind not in {None, record.component_type}:
            return
        self.generations += 1
        self.cost_usd += record.cost_usd
        if record.outcome != "ok":
            self.errors[str(record.error_type)] += 1


def ranges(days: int) -> dict[str, Range]:
    """Ranges to query."""
    odd = timedelta(hours=9, minutes=41, seconds=7)
    end = START + timedelta(days=days - 1) + odd
    return {
        "everything": Range(),
        f"{days - 2} days": Range(start=START + odd, end=end),
        "30 days": Range(start=end - timedelta(days=30, minutes=13), end=end),
        "30 days, one type": Range(start=end - timedelta(days=30, minutes=13), end=end, component_type="card"),
        "7 days": Range(start=end - timedelta(days=7, minutes=13), end=end),
        "1 day": Range(start=end - timedelta(days=1, minutes=13), end=end),
    }


def made(count: int, days: int) -> Iterator[Record]:
    """Generations spread over ninety days."""
    chance = random.Random(1)
    price = Decimal("0.21")
    costs = (
        Cost(api="openai", model="gpt-5-mini", usage=Usage(input_uncached=900, output=300), amount_usd=price),
        Cost(api="figma"),
    )
    for number in range(count):
        source = chance.choice(SOURCES)
        is_ok = chance.random() < 0.98
        is_full = source == "L4"
        yield Record(
            id=new_id(),
            created_at=START + timedelta(days=days) * (number / count),
            duration_s=TYPICAL_S[source] * chance.lognormvariate(0, 0.4),
            outcome="ok" if is_ok else "error",
            error_type=None if is_ok else chance.choice(["RateLimited", "GenerationTimeout", "ValueError", "BadCode"]),
            pipeline="components",
            pipeline_version="7",
            component_type=chance.choice(TYPES),
            component_id=f"component-{number % 500}",
            key=f"{number:064x}",
            source=source if is_ok else "",
            cost_usd=price if is_full else Decimal(0),
            costs=costs if is_full else (),
            misses={} if source == "L1" else {"L1": "cold"} if source == "L2" else {"L1": "cold", "L2": "threshold"},
        )


def questions(asked: Range) -> dict[str, Ask]:
    """Every query of a range."""
    found: dict[str, Ask] = {
        "summary": lambda engine: analytics.summary(engine, asked),
        "layers": lambda engine: analytics.layers(engine, asked),
        "costs": lambda engine: analytics.costs(engine, asked),
        "errors": lambda engine: analytics.errors(engine, asked),
    }
    if asked.start is not None and asked.end is not None and asked.end - asked.start < timedelta(days=31):
        found["baseline"] = lambda engine: analytics.baseline(engine, asked)
    if asked.start is not None and asked.end is not None:
        found["series by day"] = lambda engine: analytics.series(engine, asked)
        if asked.end - asked.start < timedelta(days=8):
            found["series by hour"] = lambda engine: analytics.series(engine, asked, step_hours=1)
    return found


async def fill(url: str, truths: dict[str, Truth], *, rows: int, days: int) -> None:
    """Write the generations through the sink, as the outbox does, unless they are stored already."""
    batch: list[Record] = []
    async with SqlSink(url) as sink:
        is_full = (await analytics.summary(sink.engine)).generations == rows
        for record in made(rows, days):
            for truth in truths.values():
                truth.note(record)
            if is_full:
                continue
            batch.append(record)
            if len(batch) == BATCH:
                await sink.deliver(batch)
                batch = []
        if batch:
            await sink.deliver(batch)


async def proved(engine: AsyncEngine, truth: Truth) -> None:
    """Check the results."""
    found = await analytics.summary(engine, truth.asked)
    apis = await analytics.costs(engine, truth.asked)
    errors = await analytics.errors(engine, truth.asked)
    spent = sum((api.cost_usd for api in apis), Decimal(0))
    if (found.generations, found.cost_usd, spent) != (truth.generations, truth.cost_usd, truth.cost_usd):
        raise SystemExit(f"{truth.asked}: {found} is not {truth}")
    if {one.error_type: one.count for one in errors} != dict(truth.errors):
        raise SystemExit(f"{truth.asked}: {errors} is not {truth.errors}")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median and maximum duration of each query in milliseconds."""
    truths = {name: Truth(asked) for name, asked in ranges(options.days).items()}
    started = time.perf_counter()
    await fill(url, truths, rows=options.rows, days=options.days)
    filled_s = time.perf_counter() - started
    engine = create_engine(url)
    async with engine.connect() as connection:
        # PostgreSQL analyzes within a minute on its own, SQLite on request.
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("ANALYZE"))
    found: dict[str, Any] = {}
    for name, truth in truths.items():
        await proved(engine, truth)
        for question, ask in questions(truth.asked).items():
            times = []
            for _ in range(options.rounds):
                started = time.perf_counter()
                await ask(engine)
                times.append(time.perf_counter() - started)
            median = sorted(times)[len(times) // 2]
            found[f"{question}, {name}"] = {"ms": round(median * 1e3, 1), "slowest_ms": round(max(times) * 1e3, 1)}
    await engine.dispose()
    slow = [name for name, figures in found.items() if figures["ms"] > BOUND_S * 1e3]
    return {"rows": options.rows, "filled_s": round(filled_s, 1), "queries": found, "holds": not slow, "slow": slow}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both databases, one after the other."""
    found = {}
    with ExitStack() as stack:
        if options.only != "postgresql":
            file = options.sqlite or f"{stack.enter_context(tempfile.TemporaryDirectory())}/forge.db"
            found["sqlite"] = asyncio.run(measure(f"sqlite+aiosqlite:///{file}", options))
        if options.only != "sqlite":
            url = options.postgresql or stack.enter_context(PostgresServer()).url
            found["postgresql"] = asyncio.run(measure(url, options))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", choices=("both", "postgresql", "sqlite"), default="both")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--sqlite", help="SQLite file to keep")
    parser.add_argument("--postgresql", help="URL of a PostgreSQL database to keep")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    found = run(options)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for title, figures in found.items():
        print(f"{title}: {figures['rows']} generations, written in {figures['filled_s']} s")
        for name, took in figures["queries"].items():
            print(f"  {name:36} {took['ms']:8.1f} ms   slowest {took['slowest_ms']:8.1f} ms")
        print(f"  all within {BOUND_S * 1e3:.0f} ms: {figures['holds']} {figures['slow'] or ''}")


if __name__ == "__main__":
    main()
