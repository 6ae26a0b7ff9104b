"""How much faster are records stored in batches than row by row through SQLModel?

Both sides write the same records: the generation with all its columns, two costs, and two cache figures of its
minute; the batches also write the rollups. The bound is for rows that are added and committed one at a time, as in
SQLModel's tutorial; one transaction for each record is measured too. The durability is the same on both sides:
PostgreSQL with its defaults (fsync, synchronous_commit), SQLite in WAL mode with synchronous=NORMAL. Check: rows are
counted, and the money adds up.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession
from tests.servers import PostgresServer

from forge_otel._internal.ids import new_id
from forge_otel.database.engine import create_engine
from forge_otel.database.models import Base, CacheStatRow, CostRow, GenerationRow
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Cost, Record, Step, Usage

BOUNDS = {"postgresql": 100.0, "sqlite": 50.0}
TOKENS = ("input_uncached", "cache_read", "cache_write", "output", "reasoning")
START = datetime(2026, 3, 1, 8, tzinfo=UTC)
STEP = timedelta(seconds=0.25)
TYPES = ("button", "card", "modal", "input", "badge")


class DurablePostgres(PostgresServer):
    """PostgreSQL with its default durability; the tests run it without fsync."""

    def command(self) -> list[str | Path]:
        """The command without the settings that reduce durability."""
        words = super().command()
        return [
            word.replace("fsync=off", "fsync=on").replace("writes=off", "writes=on") if isinstance(word, str) else word
            for word in words
        ]


def make(count: int, *, start: datetime = START, step: timedelta = STEP) -> list[Record]:
    """Records of five component types, half of them cache hits."""
    chance = random.Random(count)
    return [made(chance, start + step * number) for number in range(count)]


def made(chance: random.Random, created_at: datetime) -> Record:
    """One record with two paid calls, five steps and two cache lookups."""
    usage = Usage(input_uncached=chance.randrange(4000), cache_read=500, output=chance.randrange(900), reasoning=20)
    cost = Decimal(chance.randrange(500_000_000)) / 10**9
    source = chance.choice(["L4", "L4", "L3", "L2"])
    return Record(
        id=new_id(),
        created_at=created_at,
        duration_s=chance.lognormvariate(3, 0.5),
        outcome="ok",
        pipeline="components",
        pipeline_version="7",
        component_type=chance.choice(TYPES),
        component_id=f"component-{chance.randrange(1000)}",
        key=f"{chance.getrandbits(256):064x}",
        component_name="Primary button",
        figma_key="FiGmAkEy0123456789",
        content_hash=f"{chance.getrandbits(128):032x}",
        user_id="user-17",
        session_id="session-4711",
        tenant="acme",
        source=source,
        origin_id=new_id(),
        cost_usd=cost,
        costs=tuple(
            Cost(api="openai", model="gpt-5-mini", agent=agent, usage=usage, amount_usd=cost / 2)
            for agent in ("code_generator", "requirement_proposer")
        ),
        steps=tuple(
            Step(name=name, kind="agent", started_s=1.5, duration_s=chance.random() * 20)
            for name in ("extractor", "proposer", "retriever", "generator", "validator")
        ),
        misses={"L1": "cold"} if source == "L2" else {"L1": "cold", "L2": "threshold"},
        trace_id=f"{chance.getrandbits(128):032x}",
        quality_score=0.875,
        artifact_refs={"component.tsx": "components/button-1/component.tsx", "tokens.json": "components/b/tokens.json"},
    )


async def row_by_row(engine: AsyncEngine, records: Sequence[Record], *, commits_rows: bool) -> None:
    """Write as in SQLModel's tutorial: a session, add and commit for each row; or a commit for each record."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        for record in records:
            settle = session.commit if commits_rows else session.flush
            session.add(generation_of(record))
            await settle()
            for seq, cost in enumerate(record.costs):
                session.add(
                    CostRow(
                        generation_id=record.id,
                        seq=seq,
                        api=cost.api,
                        model=cost.model,
                        agent=cost.agent,
                        amount_usd=cost.amount_usd,
                        **tokens([cost.usage]),
                    )
                )
                await settle()
            minute = record.created_at.replace(second=0, microsecond=0)
            hits = {record.source} & {"L1", "L2", "L3"}
            for layer in [*record.misses, *hits]:
                key = (minute, layer, record.component_type)
                stat = await session.get(CacheStatRow, key)
                if stat is None:
                    stat = CacheStatRow(
                        minute=minute,
                        layer=layer,
                        component_type=record.component_type,
                        requests=0,
                        hits=0,
                        saved_usd=Decimal(0),
                    )
                    session.add(stat)
                stat.requests += 1
                stat.hits += layer in hits
                await settle()
            await session.commit()
            session.expunge_all()


def generation_of(record: Record) -> GenerationRow:
    """A row as an object of its table class."""
    same = GenerationRow.model_fields.keys() & Record.__slots__
    return GenerationRow(
        **{name: getattr(record, name) for name in same - {"steps", "degraded"}},
        **tokens([cost.usage for cost in record.costs]),
        degraded=list(record.degraded),
        steps=[{name: getattr(step, name) for name in Step.__slots__} for step in record.steps],
    )


def tokens(usages: Sequence[Usage]) -> dict[str, int]:
    """Values of the token columns."""
    return {f"{name}_tokens": sum(getattr(usage, name) for usage in usages) for name in TOKENS}


async def emptied(engine: AsyncEngine) -> None:
    """Delete everything."""
    async with engine.begin() as connection:
        for table in ("costs", "generations", "cache_stats", "rollups"):
            await connection.execute(text(f"DELETE FROM {table}"))
    if engine.dialect.name == "postgresql":
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            await raw.execute("VACUUM ANALYZE")


async def proved(engine: AsyncEngine, records: Sequence[Record]) -> None:
    """Check that every generation and cost is stored once, that the money adds up, and that every lookup is counted."""
    tables = Base.metadata.tables
    generations, costs, stats = (tables[name] for name in ("generations", "costs", "cache_stats"))
    async with engine.connect() as connection:
        found = [
            (await connection.execute(select(what))).scalar_one()
            for what in (
                func.count(generations.c.id),
                func.count(costs.c.seq),
                func.sum(generations.c.cost_nano_usd),
                func.sum(stats.c.requests),
            )
        ]
    looked_up = sum(len(record.misses) + (record.source in {"L2", "L3"}) for record in records)
    spent = sum((record.cost_usd for record in records), Decimal(0))
    due = [len(records), 2 * len(records), spent, looked_up]
    if found != due:
        raise SystemExit(f"stored {found}, not {due}")


async def alone_rate(engine: AsyncEngine, count: int, *, commits_rows: bool) -> float:
    """Records per second, row by row."""
    await emptied(engine)
    records = make(count)
    started = time.perf_counter()
    await row_by_row(engine, records, commits_rows=commits_rows)
    rate = count / (time.perf_counter() - started)
    await proved(engine, records)
    return rate


async def batched_rate(engine: AsyncEngine, sink: SqlSink, count: int, batch: int) -> tuple[float, float]:
    """Records per second in batches, and microseconds of CPU time per record."""
    await emptied(engine)
    records = make(count)
    started, cpu = time.perf_counter(), time.process_time()
    for place in range(0, count, batch):
        await sink.deliver(records[place : place + batch])
    took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    await proved(engine, records)
    return count / took_s, cpu_s / count * 1e6


async def measure(url: str, *, rounds: int, alone: int, batched: int, batch: int) -> dict[str, Any]:
    """The rates of both sides; the first round is a warm-up."""
    found: list[tuple[float, float, float, float]] = []
    async with SqlSink(url) as sink:
        engine = create_engine(url)
        for number in range(rounds + 1):
            few, many = (alone, batched) if number else (20, batch)
            by_row = await alone_rate(engine, few, commits_rows=True)
            by_record = await alone_rate(engine, few, commits_rows=False)
            found.append((by_row, by_record, *await batched_rate(engine, sink, many, batch)))
        await engine.dispose()
    rows, records, ours, cpu_us = zip(*found[1:], strict=True)
    ratio, beside = (
        statistics.median(mine / theirs for mine, theirs in zip(ours, others, strict=True))
        for others in (rows, records)
    )
    bound = BOUNDS[engine.dialect.name]
    return {
        "a commit a row, records/s": round(statistics.median(rows)),
        "a commit a record, records/s": round(statistics.median(records)),
        "batched, records/s": round(statistics.median(ours)),
        "batched, CPU us/record": round(statistics.median(cpu_us), 1),
        "ratio to a commit a record": round(beside, 1),
        "ratio": round(ratio, 1),
        "bound": bound,
        "holds": ratio >= bound,
    }


@asynccontextmanager
async def databases(only: str) -> AsyncIterator[dict[str, str]]:
    """URLs of an empty database of each kind."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        found = {"sqlite": f"sqlite+aiosqlite:///{folder}/forge.db"}
        if only != "sqlite":
            found["postgresql"] = stack.enter_context(DurablePostgres()).url
        yield {name: url for name, url in found.items() if only in {name, "both"}}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements, one after the other."""
    async with databases(options.only) as urls:
        return {
            name: await measure(
                url, rounds=options.rounds, alone=options.alone, batched=options.batched, batch=options.batch
            )
            for name, url in urls.items()
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", choices=("both", "postgresql", "sqlite"), default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", type=int, default=300, help="records row by row in a round")
    parser.add_argument("--batched", type=int, default=20_000, help="records in batches in a round")
    parser.add_argument(
        "--batch", type=int, default=2_000, help="records in a batch; the drain takes 2000, the service itself 500"
    )
    options = parser.parse_args()
    found = asyncio.run(run(options))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for title, figures in found.items():
        print(title)
        for name, value in figures.items():
            print(f"  {name:28} {value}")


if __name__ == "__main__":
    main()
